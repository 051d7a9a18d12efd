//! Which engine predicts: options, the race, and words for its result.

use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueEnum};
use priorfit::backend::Engine;
use priorfit::data::Dataset;
use priorfit::error::{Context, Error, Result};
use priorfit::posterior::{
    Entrant, OrtSettings, Posterior, Provider, Race, RuntimeChoice, ort_providers,
};

use crate::monitor::Monitor;

/// What names the library of ONNX Runtime where no option does.
const LIBRARY_VARIABLE: &str = "ORT_DYLIB_PATH";
/// Each provider that the library has.
const ALL: &str = "all";

/// What computes predictions.
#[derive(Args)]
#[command(next_help_heading = "Engines")]
pub struct EngineArgs {
    /// What computes; auto takes the fastest that agrees with our own on the first images, and
    /// says so
    #[arg(long, value_enum, value_name = "ENGINE")]
    engine: Option<Name>,
    /// The library of ONNX Runtime, 1.17 or later; without it that of ORT_DYLIB_PATH, or what the
    /// system finds
    #[arg(long, value_name = "FILE")]
    ort_library: Option<PathBuf>,
    /// What ONNX Runtime computes on, such as cpu, cuda:device_id=1 or coreml; all of them may be
    /// named, or `all` for each that the library has
    #[arg(long, value_name = "NAME[:KEY=VALUE,..]")]
    ort_provider: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// The fastest
    Auto,
    /// Our own, on --device
    Own,
    /// tract, on one thread of the processor
    Tract,
    /// ONNX Runtime, in a build with the feature `ort`
    Ort,
}

/// What is done where no engine is named.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unless {
    /// Our own engine predicts, whose results repeat to the last bit.
    Own,
    /// Engines race where there is enough to predict.
    Worth,
}

impl EngineArgs {
    /// `posterior` with the engine that is to predict `data`, and how it was chosen if there was
    /// a choice.
    ///
    /// # Errors
    /// When options contradict each other, or the engine that is asked for cannot predict.
    pub fn choose(
        &self,
        posterior: Posterior,
        data: &Dataset,
        (engine, unless): (&Engine, Unless),
        monitor: &mut Monitor,
    ) -> Result<(Posterior, Option<Race>)> {
        let says_ort = self.ort_library.is_some() || !self.ort_provider.is_empty();
        if says_ort && matches!(self.engine, Some(Name::Own | Name::Tract)) {
            return Err(Error::invalid("--ort-library and --ort-provider are for ONNX Runtime")
                .hint("say --engine ort, or --engine auto"));
        }
        let entrants = match (self.engine, unless) {
            (Some(Name::Own), _) => return Ok((posterior, None)),
            (None, Unless::Own) if !says_ort => return Ok((posterior, None)),
            (Some(Name::Tract), _) => vec![RuntimeChoice::Tract],
            (Some(Name::Ort), _) => self.ort()?,
            (Some(Name::Auto), _) | (None, _) => self.all(says_ort)?,
        };
        let is_asked = self.engine.is_some() || says_ort;
        if data.is_empty() || !is_asked && !posterior.is_worth_a_race(data, entrants.len()) {
            return Ok((posterior, None));
        }
        let entrants = entrants.into_iter().map(|choice| Entrant::of(choice, engine)).collect();
        let start = Instant::now();
        let mut now = || start.elapsed();
        let raced =
            posterior.race(entrants, data, engine, &mut now, &mut |p| monitor.predicting(p));
        let (posterior, race) = raced.context(|| "--engine")?;
        Ok((posterior, Some(race)))
    }

    /// Our own, tract, and ONNX Runtime where this build has it or it is asked for.
    fn all(&self, says_ort: bool) -> Result<Vec<RuntimeChoice>> {
        let mut all = vec![RuntimeChoice::Own, RuntimeChoice::Tract];
        if cfg!(feature = "ort") || says_ort {
            all.extend(self.ort()?);
        }
        Ok(all)
    }

    /// ONNX Runtime, once for each provider.
    fn ort(&self) -> Result<Vec<RuntimeChoice>> {
        let library = self.library();
        let with =
            |provider| RuntimeChoice::Ort(OrtSettings { library: library.clone(), provider });
        if self.ort_provider.iter().any(|name| name == ALL) {
            let names = ort_providers(&library)?;
            return names.into_iter().map(|name| Ok(with(Some(name.parse()?)))).collect();
        }
        match &self.ort_provider[..] {
            [] => Ok(vec![with(None)]),
            names => names.iter().map(|name| Ok(with(Some(name.parse::<Provider>()?)))).collect(),
        }
    }

    /// The library that was named, or the name under which a system knows it.
    fn library(&self) -> PathBuf {
        let named = self.ort_library.clone();
        let named = named.or_else(|| Some(std::env::var_os(LIBRARY_VARIABLE)?.into()));
        named.filter(|path| !path.as_os_str().is_empty()).unwrap_or_else(|| {
            let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
            format!("{prefix}onnxruntime{suffix}").into()
        })
    }
}

/// A race where there was one, after a result.
pub fn write_race(f: &mut fmt::Formatter<'_>, race: &Option<Race>) -> fmt::Result {
    match race {
        Some(race) => write!(f, "\n{race}"),
        None => Ok(()),
    }
}
