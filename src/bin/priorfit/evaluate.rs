//! `evaluate`: metrics of a posterior on labelled data, as text, JSON and a page to look at.

mod charts;
mod examples;
mod learning;
mod measured;
mod page;
mod svg;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use priorfit::adapt::score;
use priorfit::atomic_file;
use priorfit::data::Dataset;
use priorfit::error::{Context, Result};
use priorfit::posterior::metrics;
use priorfit::posterior::{
    Calibration, EarlyExit, Posterior, Predictions, Race, RiskCoverage, Separation,
};
use priorfit::task::Task;
use serde::Serialize;

use self::page::Subject;
use crate::engines::{EngineArgs, Unless, write_race};
use crate::globals::Globals;
use crate::monitor::Monitor;
use crate::options::{Destination, check_destination, percent};

/// Measure a posterior's predictions on labelled data
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  priorfit evaluate --posterior mine/ --data test/
  priorfit evaluate --posterior mine/ --data test.npz --json
  priorfit evaluate --posterior mine/ --data test/ --ood elsewhere/ --report mine.html

Classes, labels and columns of numbers are matched by name between folders, by number for an .npz.
Data for --ood need no labels; numbers of a single draw tell no images apart.

Classes: accuracy, likelihood, calibration and selective prediction. Labels: average precision, F1,
likelihood and calibration of the marginals. Numbers: RMSE, MAE, R2, likelihood, coverage of 90 %
intervals. Masks: IoU, and likelihood and calibration of the pixels.

What `calibrate` has stored is in use and measured; --uncalibrated leaves it out.

Our own engine predicts, so that a measure repeats to the last digit, unless another is named.")]
pub struct Evaluate {
    /// The folder that `adapt` wrote
    #[arg(long, value_name = "DIR")]
    posterior: PathBuf,
    /// Labelled examples as `adapt` takes them
    #[arg(long, value_name = "DATA")]
    data: PathBuf,
    /// Images of another kind, such as of none of the classes, to see whether they are told apart
    #[arg(long, value_name = "DATA")]
    ood: Option<PathBuf>,
    /// Write a page with charts and examples: one HTML file that needs nothing else
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Leave out what `calibrate` has stored
    #[arg(long)]
    uncalibrated: bool,
    #[command(flatten)]
    engines: EngineArgs,
}

#[derive(Serialize)]
struct Report {
    /// Names of the classes, by index.
    names: Vec<String>,
    #[serde(flatten)]
    metrics: metrics::Report,
    /// Selective prediction by the largest probability.
    selective: RiskCoverage,
    /// Mean entropy and mutual information, in nats.
    entropy: f64,
    mutual_information: f64,
    /// How the calibration fares, if there is one.
    calibrated: Option<Calibrated>,
    /// How well scores tell foreign images, if there are any.
    ood: Option<Ood>,
    /// How the engine was chosen, if there was a choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    race: Option<Race>,
}

/// What was promised, and what is.
#[derive(Serialize)]
struct Calibrated {
    temperature: f64,
    /// Promised and found share of sets with the true class, and how many classes a set has.
    coverage_promised: f64,
    coverage: f64,
    set_size: f64,
    /// Share of examples that are answered, and of wrong answers among them.
    answered: f64,
    risk: f64,
    /// Promised and found share of examples that are called unfamiliar.
    false_alarms_promised: f64,
    false_alarms: f64,
}

/// Foreign images told from those of the data by three scores, each higher for foreign ones.
/// Calibration uses mutual information, or entropy with a single draw.
#[derive(Serialize)]
struct Ood {
    count: usize,
    entropy: Option<Separation>,
    mutual_information: Option<Separation>,
    /// One less the largest probability.
    doubt: Option<Separation>,
    /// Share of foreign images that are called unfamiliar, with a calibration.
    detected: Option<f64>,
}

impl Evaluate {
    /// Runs the command.
    pub fn run(&self, globals: &Globals) -> Result<ExitCode> {
        let page = self.report.as_deref();
        page.map_or(Ok(()), |page| check_destination(page, Destination::File))?;
        let mut posterior = Posterior::load(&self.posterior)?;
        if self.uncalibrated {
            posterior = posterior.with_calibration(None)?;
        }
        if !matches!(posterior.description().task, Task::Classification { .. }) {
            return measured::evaluate(posterior, self, globals);
        }
        let names = posterior.description().task.names().to_vec();
        let in_data = || self.data.display().to_string();
        let data = Dataset::open(&self.data)?.with_classes(&names).context(in_data)?;
        let labels = data.labels(&(0..data.len()).collect::<Vec<_>>()).context(in_data)?;
        let foreign = match &self.ood {
            None => None,
            Some(path) => Some((path.as_path(), Dataset::open(path)?)),
        };
        let mut monitor = Monitor::new(globals)?;
        let engine = globals.engine()?;
        let how = (&engine, Unless::Own);
        let (posterior, race) = self.engines.choose(posterior, &data, how, &mut monitor)?;
        let mut predict = |data: &Dataset| {
            let exit = EarlyExit::Never;
            posterior.predictions(data, &engine, exit, &mut |p| monitor.predicting(p))
        };
        let predicted = predict(&data).context(in_data)?;
        let foreign = match &foreign {
            None => None,
            Some((path, data)) => {
                let predicted = predict(data).context(|| path.display().to_string())?;
                Some((*path, data, predicted))
            }
        };
        monitor.finish();
        let calibration = posterior.description().calibration.as_ref();
        let foreign = foreign.as_ref().map(|(path, data, predicted)| (*path, *data, predicted));
        let strangers = foreign.map(|(.., predicted)| predicted);
        let report = Report::new(names, &predicted, &labels, strangers, calibration)?;
        let report = Report { race, ..report };
        if let Some(path) = page {
            let subject = Subject {
                folder: &self.posterior,
                posterior: &posterior,
                data: (&self.data, &data),
                labels: &labels,
                predicted: &predicted,
                foreign,
                report: &report,
            };
            let html = subject.page()?;
            atomic_file::write(path, |file| file.write_all(html.as_bytes()))?;
        }
        globals.print(&report)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Report {
    fn new(
        names: Vec<String>,
        predicted: &Predictions,
        labels: &[usize],
        foreign: Option<&Predictions>,
        calibration: Option<&Calibration>,
    ) -> Result<Self> {
        let is_right: Vec<bool> =
            predicted.classes().iter().zip(labels).map(|(class, label)| class == label).collect();
        Ok(Report {
            names,
            metrics: score(&predicted.probabilities, labels)?,
            selective: RiskCoverage::of(&predicted.confidence(), &is_right),
            entropy: mean(&predicted.entropy),
            mutual_information: mean(&predicted.mutual_information),
            calibrated: calibration.map(|c| Calibrated::new(c, predicted, labels)),
            ood: foreign.map(|foreign| Ood::new(calibration, predicted, foreign)),
            race: None,
        })
    }
}

impl Calibrated {
    fn new(calibration: &Calibration, predicted: &Predictions, labels: &[usize]) -> Self {
        let count = labels.len() as f64;
        let [mut held, mut classes, mut answered, mut wrong, mut alarms] = [0; 5];
        for (index, label) in labels.iter().enumerate() {
            let verdict = calibration.verdict(predicted, index);
            held += usize::from(verdict.set.contains(label));
            classes += verdict.set.len();
            alarms += usize::from(verdict.unfamiliar);
            if !verdict.abstains {
                answered += 1;
                wrong += usize::from(predicted.class(index) != *label);
            }
        }
        Calibrated {
            temperature: calibration.temperature,
            coverage_promised: calibration.sets.map_or(0.0, |sets| sets.coverage),
            coverage: held as f64 / count,
            set_size: classes as f64 / count,
            answered: answered as f64 / count,
            risk: wrong as f64 / answered.max(1) as f64,
            false_alarms_promised: calibration.familiarity.false_alarms,
            false_alarms: alarms as f64 / count,
        }
    }
}

impl Ood {
    fn new(
        calibration: Option<&Calibration>,
        familiar: &Predictions,
        foreign: &Predictions,
    ) -> Self {
        let doubt = |p: &Predictions| p.confidence().iter().map(|p| 1.0 - p).collect::<Vec<_>>();
        let is_detected = |calibration: &Calibration| {
            let all = (0..foreign.len()).map(|index| calibration.verdict(foreign, index));
            all.filter(|verdict| verdict.unfamiliar).count() as f64 / foreign.len() as f64
        };
        Ood {
            count: foreign.len(),
            entropy: Separation::of(&familiar.entropy, &foreign.entropy),
            mutual_information: Separation::of(
                &familiar.mutual_information,
                &foreign.mutual_information,
            ),
            doubt: Separation::of(&doubt(familiar), &doubt(foreign)),
            detected: calibration.map(is_detected),
        }
    }
}

fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len().max(1) as f64
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.metrics)?;
        let RiskCoverage { aurc, aurc_best, right_from_wrong, .. } = &self.selective;
        writeln!(f, "AURC                 {aurc:.4}  (at best {aurc_best:.4})")?;
        if let Some(separation) = right_from_wrong {
            writeln!(f, "right from wrong     {}", Shown(separation))?;
        }
        writeln!(f, "entropy              {:.4}", self.entropy)?;
        writeln!(f, "mutual information   {:.4}", self.mutual_information)?;
        if let Some(calibrated) = &self.calibrated {
            write!(f, "{calibrated}")?;
        }
        if let Some(ood) = &self.ood {
            write!(f, "{ood}")?;
        }
        writeln!(f)?;
        self.write_confusion(f)?;
        write_race(f, &self.race)
    }
}

impl Report {
    fn write_confusion(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let confusion = &self.metrics.confusion;
        let largest = confusion.iter().flatten().max().map_or(1, |count| count.to_string().len());
        let width = largest.max(confusion.len().to_string().len()) + 1;
        write!(f, "true\\predicted")?;
        (0..confusion.len()).try_for_each(|class| write!(f, "{class:>width$}"))?;
        writeln!(f)?;
        for (class, (row, name)) in confusion.iter().zip(&self.names).enumerate() {
            write!(f, "{class:>14}")?;
            row.iter().try_for_each(|count| write!(f, "{count:>width$}"))?;
            // Classes of an `.npz` are called by their numbers.
            let name = if *name == class.to_string() { "" } else { name.as_str() };
            writeln!(f, "{}{name}", if name.is_empty() { "" } else { "  " })?;
        }
        Ok(())
    }
}

/// A separation in a line.
struct Shown<'a>(&'a Separation);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Separation { auroc, fpr95 } = self.0;
        write!(f, "AUROC {auroc:.4}, FPR at 95 % {}", percent(*fpr95))
    }
}

impl fmt::Display for Calibrated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [coverage, promised] = [self.coverage, self.coverage_promised].map(percent);
        let [answered, risk] = [self.answered, self.risk].map(percent);
        let [alarms, allowed] = [self.false_alarms, self.false_alarms_promised].map(percent);
        writeln!(f, "temperature          {:.4}", self.temperature)?;
        writeln!(f, "sets                 {coverage} hold the class ({promised} promised)")?;
        writeln!(f, "                     {:.2} classes on average", self.set_size)?;
        writeln!(f, "answered             {answered}, {risk} of them wrong")?;
        writeln!(f, "called unfamiliar    {alarms} ({allowed} at most promised)")
    }
}

impl fmt::Display for Ood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nforeign images       {}", self.count)?;
        for (name, separation) in [
            ("by entropy", &self.entropy),
            ("by mutual inform.", &self.mutual_information),
            ("by 1 - probability", &self.doubt),
        ] {
            if let Some(separation) = separation {
                writeln!(f, "{name:20} {}", Shown(separation))?;
            }
        }
        match self.detected {
            Some(share) => writeln!(f, "called unfamiliar    {}", percent(share)),
            None => Ok(()),
        }
    }
}
