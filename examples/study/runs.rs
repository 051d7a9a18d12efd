//! One run of one row: adapting, measuring, and for tuned rows the search before.

use std::sync::Arc;

use ndarray::{Array2, Axis, concatenate};
use priorfit::adapt::{Adapted, Adapter, Control, Ending, Phase, Settings, score};
use priorfit::data::{Dataset, Preprocess};
use priorfit::error::{Error, Kind, Result};
use priorfit::posterior::{Posterior, Truth, best_temperature, tempered};
use priorfit::prior::Prior;
use priorfit::threads::Threads;

use crate::clock::Started;
use crate::material::{Images, Material};
use crate::records::{Found, Measured, Record, Records, Setting};
use crate::rows::Row;

/// Parts that the examples of a tuned row are dealt into.
const PARTS: usize = 4;
/// Parts are held out in turn until this many examples have been.
const HELD_OUT: usize = 25;
/// The fewest held-out examples that decide anything.
const HELD_OUT_MIN: usize = 10;
/// A probability of less than this counts as this.
const PROBABILITY_MIN: f64 = 1e-12;

/// A run that is to be made.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    pub row: Row,
    pub shots: usize,
    pub seed: u64,
}

/// A draw of labels, and what a row adapts with.
struct Cell<'a> {
    job: Job,
    setting: &'a Setting,
    images: &'a Images,
    prior: Option<&'a Prior>,
    preprocess: Preprocess,
    train: Dataset,
    test: Dataset,
    threads: Arc<Threads>,
}

/// What a tuned row is run with.
struct Tuned {
    settings: Settings,
    temperature: f64,
}

/// Makes the run; the results of one of masks are those of two rows.
pub fn run(
    job: Job,
    material: &Material,
    setting: &Setting,
    known: Option<Record>,
    threads: Arc<Threads>,
) -> Result<Vec<Record>> {
    let missing = || Error::invalid("there are no images with masks").hint("give --masks");
    let images = match job.row.is_of_masks() {
        true => material.masks.as_ref().ok_or_else(missing)?,
        false => &material.images,
    };
    let (train, test) = images.draw(job.seed, job.shots)?;
    let preprocess = images.preprocess(&train, &threads)?;
    let prior = match (&material.prior, job.row.needs_prior()) {
        (None, true) => {
            return Err(Error::invalid("a row takes the source's prior")
                .hint("give --prior or --source, or choose other --rows"));
        }
        (prior, needs) => prior.as_ref().filter(|_| needs),
    };
    let cell = Cell { job, setting, images, prior, preprocess, train, test, threads };
    if job.row.is_of_masks() {
        return cell.masks();
    }
    cell.classes(known, material.shift.as_ref()).map(|record| vec![record])
}

/// The record whose choice `job` may share.
pub fn known(records: &Records, job: Job) -> Option<Record> {
    let shared = records.find(Row::Default, job.shots, job.seed);
    shared.filter(|record| job.row.shares_choice() && record.choice.is_some()).cloned()
}

impl Cell<'_> {
    fn classes(&self, known: Option<Record>, shift: Option<&Dataset>) -> Result<Record> {
        let started = Started::now();
        let settings = self.job.row.settings(self.job.seed, self.setting.steps);
        let tuned = match self.job.row.is_tuned() {
            true => self.tune(settings)?,
            false => Tuned { settings, temperature: 1.0 },
        };
        let searched = started.seconds();
        let choice = known.as_ref().and_then(|record| record.choice.as_ref());
        let (adapted, validated) = self.fit(&self.train, tuned.settings.clone(), choice)?;
        let shared = known.as_ref().map_or(0.0, |record| record.choice_seconds);
        let seconds = started.seconds() + shared;
        let posterior =
            if self.job.row == Row::Probe { &adapted.probe } else { &adapted.posterior };
        let predicting = Started::now();
        let p = self.predict(posterior, &self.test)?;
        let predict_seconds = predicting.seconds();
        let kept = adapted.choice.as_ref().map(|choice| choice.kept().strength);
        let own = posterior.description().temperature;
        let temperature = own * tuned.temperature;
        // The temperature of an average over draws cannot be taken back.
        let plain = match posterior.draws() {
            [_] => Some(self.measure(&at(&p, 1.0 / own), &self.test, posterior)?),
            _ => None,
        };
        let shift = shift.map(|data| {
            let p = at(&self.predict(posterior, data)?, tuned.temperature);
            self.measure(&p, data, posterior)
        });
        Ok(Record {
            row: self.job.row,
            shots: self.job.shots,
            seed: self.job.seed,
            test: self.measure(&at(&p, tuned.temperature), &self.test, posterior)?,
            plain,
            shift: shift.transpose()?,
            seconds,
            choice_seconds: searched + validated + shared,
            predict_seconds,
            draws: posterior.draws().len(),
            strength: kept.unwrap_or(tuned.settings.strength),
            head_variance: match &adapted.choice {
                Some(choice) => Some(choice.head_variance),
                None => tuned.settings.head_variance,
            },
            temperature,
            choice: adapted.choice.as_ref().map(Found::from),
        })
    }

    fn masks(&self) -> Result<Vec<Record>> {
        let started = Started::now();
        let settings = Row::MaskDefault.settings(self.job.seed, self.setting.steps);
        let (adapted, validated) = self.fit(&self.train, settings, None)?;
        let seconds = started.seconds();
        let record = |row, posterior: &Posterior, seconds: f64| {
            let predicting = Started::now();
            let evaluation = posterior.evaluate(&self.test, &self.threads, &mut |_| true)?;
            let kept = adapted.choice.as_ref().and_then(|choice| choice.kept().strength);
            Ok(Record {
                row,
                shots: self.job.shots,
                seed: self.job.seed,
                test: evaluation.summary().into(),
                plain: None,
                shift: None,
                seconds,
                choice_seconds: validated,
                predict_seconds: predicting.seconds(),
                draws: posterior.draws().len(),
                strength: kept.filter(|_| row == Row::MaskDefault),
                head_variance: adapted.choice.as_ref().map(|choice| choice.head_variance),
                temperature: posterior.description().temperature,
                choice: None,
            })
        };
        // What the decoder took is not told apart.
        Ok(vec![
            record(Row::MaskProbe, &adapted.probe, seconds)?,
            record(Row::MaskDefault, &adapted.posterior, seconds)?,
        ])
    }

    /// Adapts, and the seconds until cross-validation was done.
    fn fit(
        &self,
        train: &Dataset,
        settings: Settings,
        choice: Option<&Found>,
    ) -> Result<(Adapted, f64)> {
        let started = Started::now();
        let model = Arc::clone(&self.images.model);
        let mut adapter = Adapter::new(model, self.preprocess.clone(), &self.threads);
        if let Some(prior) = self.prior {
            adapter = adapter.with_prior(prior.clone())?;
        }
        adapter = adapter.with_settings(settings)?;
        if let Some(found) = choice {
            adapter = adapter.with_choice(found.choice());
        }
        let mut at_step = Vec::new();
        let adapted = adapter.fit(train, None, &mut |progress| {
            if progress.phase == Phase::Train {
                at_step.push(started.seconds());
            }
            Control::Continue
        })?;
        if adapted.ending != Ending::Completed {
            return Err(Error::new(Kind::Diverged, adapted.notice.clone().unwrap_or_default()));
        }
        let found = adapted.choice.as_ref().filter(|_| choice.is_none());
        let until = found.map_or(0.0, |found| {
            let longest = found.candidates.iter().map(|c| c.steps).max().unwrap_or(0);
            let last = (found.folds * longest).checked_sub(1);
            last.and_then(|last| at_step.get(last)).copied().unwrap_or(0.0)
        });
        Ok((adapted, until))
    }

    fn predict(&self, posterior: &Posterior, data: &Dataset) -> Result<Array2<f64>> {
        posterior.predict(data, &self.threads, &mut |_| true)
    }

    fn measure(&self, p: &Array2<f64>, data: &Dataset, of: &Posterior) -> Result<Measured> {
        let data = of.description().task.align(data)?;
        let labels = data.labels(&(0..data.len()).collect::<Vec<_>>())?;
        Ok(score(p, &labels)?.summary().into())
    }

    /// The strength with the best held-out likelihood, each trained in full, with the head's
    /// variance that suits the linear probe; the library's defaults where nothing can be held out.
    fn tune(&self, settings: Settings) -> Result<Tuned> {
        let folds = self.folds()?;
        if folds.is_empty() {
            return Ok(Tuned { settings, temperature: 1.0 });
        }
        let probe = Settings { steps: 0, ..settings.clone() };
        let head = self.fit(&self.train, probe, None)?.0.choice.map(|choice| choice.head_variance);
        let mut best: Option<(f64, Tuned)> = None;
        for strength in self.strengths()? {
            let settings =
                Settings { strength: Some(strength), head_variance: head, ..settings.clone() };
            let (nll, temperature) = self.held_out(&folds, &settings)?;
            // What diverged has no number.
            let nll = if nll.is_nan() { f64::INFINITY } else { nll };
            if best.as_ref().is_none_or(|(least, _)| nll < *least) {
                best = Some((nll, Tuned { settings, temperature }));
            }
        }
        best.map(|(_, tuned)| tuned).ok_or_else(|| Error::invalid("no strength is tried"))
    }

    /// The sets to hold out in turn; none where they are too small to decide anything.
    fn folds(&self) -> Result<Vec<Vec<usize>>> {
        let mut folds = self.train.folds(self.job.seed, PARTS)?;
        let mut held_out = 0;
        let enough = folds.iter().position(|fold| {
            held_out += fold.len();
            held_out >= HELD_OUT
        });
        folds.truncate(enough.map_or(PARTS, |last| last + 1));
        match held_out >= HELD_OUT_MIN {
            true => Ok(folds),
            false => Ok(Vec::new()),
        }
    }

    /// The strengths that make the prior's typical variance what is to be tried.
    fn strengths(&self) -> Result<Vec<f64>> {
        let unit = match (self.job.row, self.prior) {
            (Row::WeightDecay, _) => 1.0,
            (Row::Diagonal, Some(prior)) => prior.diagonal()?.equivalent_variance()?,
            (_, Some(prior)) => prior.equivalent_variance()?,
            _ => Settings::default().isotropic_variance,
        };
        let variances = match self.job.row {
            Row::WeightDecay => &self.setting.decays,
            _ => &self.setting.variances,
        };
        Ok(variances.iter().map(|variance| variance / unit).collect())
    }

    /// Likelihood at the best temperature, and that temperature; not a number where a run
    /// diverges, which is then not the best.
    fn held_out(&self, folds: &[Vec<usize>], settings: &Settings) -> Result<(f64, f64)> {
        let mut parts = Vec::new();
        for fold in folds {
            let rest: Vec<usize> =
                (0..self.train.len()).filter(|index| !fold.contains(index)).collect();
            let adapted = match self.fit(&self.train.subset(&rest)?, settings.clone(), None) {
                Err(error) if error.kind() == Kind::Diverged => return Ok((f64::NAN, 1.0)),
                other => other?.0,
            };
            parts.push(self.predict(&adapted.posterior, &self.train.subset(fold)?)?);
        }
        let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
        let p = concatenate(Axis(0), &views)
            .map_err(|e| Error::internal("all folds have the same classes").caused_by(e))?;
        let labels = self.train.labels(&folds.concat())?;
        let temperature = best_temperature(&[logits(&p)], Truth::Classes(labels.clone()), 1.0);
        Ok((score(&at(&p, temperature), &labels)?.summary().nll, temperature))
    }
}

/// Logits of these distributions.
fn logits(p: &Array2<f64>) -> Array2<f32> {
    p.mapv(|p| p.max(PROBABILITY_MIN).ln() as f32)
}

/// These distributions at another temperature.
fn at(p: &Array2<f64>, temperature: f64) -> Array2<f64> {
    if temperature == 1.0 { p.clone() } else { tempered(&logits(p), temperature) }
}
