//! `evaluate` of what are no classes: labels, numbers and masks.

mod page;

use std::fmt;
use std::process::ExitCode;

use priorfit::atomic_file;
use priorfit::data::{Dataset, Preprocess};
use priorfit::error::{Context, Error, Result};
use priorfit::posterior::{
    Calibration, Evaluation, Part, Posterior, Race, RiskCoverage, Score, Separation, Uncertainty,
};
use priorfit::task::Task;
use priorfit::threads::Threads;
use serde::Serialize;

use self::page::Subject;
use super::{Evaluate, Shown, charts, mean};
use crate::engines::{Unless, write_race};
use crate::globals::Globals;
use crate::monitor::Monitor;
use crate::options::percent;

/// About how many pixels the curve of risk and coverage rests on.
const PIXELS: usize = 1 << 14;

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    evaluation: Evaluation,
    /// Selective prediction, of each label by itself, or of a sample of the pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    selective: Option<RiskCoverage>,
    /// Means over the examples, in nats.
    entropy: f64,
    mutual_information: f64,
    /// How the calibration fares, if there is one.
    calibrated: Option<Promises>,
    /// How well scores tell foreign images, if there are any.
    ood: Option<Foreign>,
    /// How the engine was chosen, if there was a choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    race: Option<Race>,
}

/// What was promised, and what is.
#[derive(Serialize)]
struct Promises {
    temperature: f64,
    /// Of intervals of numbers.
    coverage_promised: Option<f64>,
    coverage: Option<f64>,
    false_alarms_promised: f64,
    false_alarms: f64,
}

/// Foreign images told from those of the data.
#[derive(Serialize)]
struct Foreign {
    count: usize,
    entropy: Option<Separation>,
    mutual_information: Option<Separation>,
    /// Share of foreign images that are called unfamiliar, with a calibration.
    detected: Option<f64>,
}

/// What predictions leave besides their measures.
#[derive(Default)]
struct Seen {
    uncertainty: Vec<Uncertainty>,
    /// Mean and variance of labels and numbers, `[N, outputs]`.
    mean: Vec<f64>,
    variance: Vec<f64>,
    /// Share of wrong pixels of each mask.
    errors: Vec<f64>,
    /// Of labels, or of some pixels: how sure each is, and whether it is right.
    confidence: Vec<f64>,
    is_right: Vec<bool>,
}

/// Measures a posterior that predicts no classes.
pub(super) fn evaluate(
    posterior: Posterior,
    options: &Evaluate,
    globals: &Globals,
) -> Result<ExitCode> {
    let task = posterior.task();
    let is_alike = matches!(task, Task::Regression { .. }) && posterior.draws().len() == 1;
    if options.ood.is_some() && is_alike {
        let message = "a single draw is equally sure of all numbers, so it tells no images apart";
        return Err(Error::unsupported(message)
            .hint("adapt with --posterior laplace, swag, sghmc or ensemble for --ood"));
    }
    let in_data = || options.data.display().to_string();
    let data = task.align(&Dataset::open(&options.data)?).context(in_data)?;
    let strangers = options.ood.as_deref().map(Dataset::open).transpose()?;
    let mut monitor = Monitor::new(globals)?;
    let engine = globals.engine()?;
    let how = (&engine, Unless::Own);
    let (posterior, race) = options.engines.choose(posterior, &data, how, &mut monitor)?;
    let posterior = &posterior;
    let mut observe = |p| monitor.predicting(p);
    let mut seen = Seen::default();
    let input = &posterior.description().preprocess;
    let mut look = |part: &Part| seen.look(&task, input, &data, part, engine.threads());
    let evaluation =
        posterior.evaluate_parts(&data, &engine, &mut observe, &mut look).context(in_data)?;
    let mut foreign = Vec::new();
    if let (Some(path), Some(data)) = (&options.ood, &strangers) {
        let mut look = |part: Part| {
            foreign.extend(part.uncertainty);
            Ok(())
        };
        let done = posterior.predict_parts(data, &engine, &mut observe, &mut look);
        done.context(|| path.display().to_string())?;
    }
    monitor.finish();
    let truth = targets(&task, &data)?;
    let foreign = strangers.is_some().then_some(&foreign[..]);
    let report = Report { race, ..Report::new(evaluation, posterior, &seen, &truth, foreign) };
    if let Some(path) = &options.report {
        let subject = Subject {
            folder: &options.posterior,
            posterior,
            task: &task,
            data: (&options.data, &data),
            seen: &seen,
            truth: &truth,
            foreign: options.ood.as_deref().zip(foreign),
            report: &report,
        };
        let html = subject.page(&engine)?;
        atomic_file::write(path, |file| file.write_all(html.as_bytes()))?;
    }
    globals.print(&report)?;
    Ok(ExitCode::SUCCESS)
}

/// Labels or numbers of all examples, `[N, outputs]`; nothing of masks, which take too much.
fn targets(task: &Task, data: &Dataset) -> Result<Vec<f32>> {
    let mut truth = vec![0.0; if task.is_dense() { 0 } else { data.len() * task.outputs() }];
    if !task.is_dense() {
        data.fill_rows(&(0..data.len()).collect::<Vec<_>>(), &mut truth)?;
    }
    Ok(truth)
}

impl Seen {
    fn look(
        &mut self,
        task: &Task,
        input: &Preprocess,
        data: &Dataset,
        part: &Part,
        threads: &Threads,
    ) -> Result<()> {
        self.uncertainty.extend(&part.uncertainty);
        let examples: Vec<usize> = part.examples.clone().collect();
        if task.is_dense() {
            let pixels = input.height * input.width;
            let mut truth = vec![0.0; examples.len() * pixels];
            data.fill_masks(&examples, input, None, &mut truth, threads)?;
            // An odd number does not stay in one column of an even width.
            let every = (data.len().saturating_mul(pixels) / PIXELS).max(1) | 1;
            let masks = part.mean.chunks_exact(pixels * task.outputs()).zip(truth.chunks(pixels));
            masks.for_each(|(p, truth)| self.look_at_mask(p, truth, every));
            return Ok(());
        }
        self.mean.extend(&part.mean);
        self.variance.extend(&part.variance);
        if let Task::MultiLabel { .. } = task {
            let mut truth = vec![0.0; part.mean.len()];
            data.fill_rows(&examples, &mut truth)?;
            self.confidence.extend(part.mean.iter().map(|p| p.max(1.0 - p)));
            let is_right = part.mean.iter().zip(&truth).map(|(p, y)| (*p > 0.5) == (*y > 0.5));
            self.is_right.extend(is_right);
        }
        Ok(())
    }

    /// `p: [H·W, classes]`; the class of each pixel, below 0 where it does not count.
    fn look_at_mask(&mut self, p: &[f64], truth: &[f32], every: usize) {
        let classes = p.len() / truth.len().max(1);
        let (mut counted, mut wrong) = (0, 0);
        for (at, (row, &class)) in p.chunks_exact(classes.max(1)).zip(truth).enumerate() {
            if class < 0.0 {
                continue;
            }
            let best = likeliest(row);
            let is_right = best == class as usize;
            counted += 1;
            wrong += usize::from(!is_right);
            if at % every == 0 {
                self.confidence.push(row[best]);
                self.is_right.push(is_right);
            }
        }
        self.errors.push(f64::from(wrong as u32) / f64::from(counted.max(1)));
    }
}

/// The first class of the largest probability.
fn likeliest(row: &[f64]) -> usize {
    (0..row.len()).fold(0, |best, class| if row[class] > row[best] { class } else { best })
}

impl Report {
    fn new(
        evaluation: Evaluation,
        posterior: &Posterior,
        seen: &Seen,
        truth: &[f32],
        foreign: Option<&[Uncertainty]>,
    ) -> Self {
        let selective = (!seen.confidence.is_empty()).then(|| {
            let curve = RiskCoverage::of(&seen.confidence, &seen.is_right);
            RiskCoverage { points: charts::thinned(&curve.points), ..curve }
        });
        let calibration = posterior.description().calibration.as_ref();
        Report {
            evaluation,
            selective,
            entropy: mean(&scores(Score::Entropy, &seen.uncertainty)),
            mutual_information: mean(&scores(Score::MutualInformation, &seen.uncertainty)),
            calibrated: calibration.map(|c| Promises::new(c, seen, truth)),
            ood: foreign.map(|foreign| Foreign::new(calibration, &seen.uncertainty, foreign)),
            race: None,
        }
    }
}

fn scores(score: Score, uncertainty: &[Uncertainty]) -> Vec<f64> {
    uncertainty.iter().map(|one| score.of_one(one)).collect()
}

impl Promises {
    fn new(calibration: &Calibration, seen: &Seen, truth: &[f32]) -> Self {
        let intervals = calibration.intervals.as_ref();
        let halves = intervals.and_then(|intervals| {
            Some(intervals.half_widths.as_ref()?.iter().zip(&intervals.noise).cycle())
        });
        let coverage = halves.map(|halves| {
            let off = seen.mean.iter().zip(truth).map(|(m, y)| (f64::from(*y) - m).abs());
            let widths = seen.variance.iter().zip(halves);
            let widths = widths.map(|(v, (half, noise))| half * (v + noise).sqrt());
            let within = off.zip(widths).filter(|(off, width)| off <= width).count();
            within as f64 / truth.len().max(1) as f64
        });
        let alarms = seen.uncertainty.iter().filter(|one| calibration.is_unfamiliar(one)).count();
        Promises {
            temperature: calibration.temperature,
            coverage_promised: coverage.and(intervals.map(|intervals| intervals.coverage)),
            coverage,
            false_alarms_promised: calibration.familiarity.false_alarms,
            false_alarms: alarms as f64 / seen.uncertainty.len().max(1) as f64,
        }
    }
}

impl Foreign {
    fn new(
        calibration: Option<&Calibration>,
        familiar: &[Uncertainty],
        foreign: &[Uncertainty],
    ) -> Self {
        let apart = |score| Separation::of(&scores(score, familiar), &scores(score, foreign));
        let detected = |calibration: &Calibration| {
            let found = foreign.iter().filter(|one| calibration.is_unfamiliar(one)).count();
            found as f64 / foreign.len().max(1) as f64
        };
        Foreign {
            count: foreign.len(),
            entropy: apart(Score::Entropy),
            mutual_information: apart(Score::MutualInformation),
            detected: calibration.map(detected),
        }
    }

    /// Each score's name and what it tells.
    fn by_score(&self) -> [(&'static str, Option<&Separation>); 2] {
        [
            ("by entropy", self.entropy.as_ref()),
            ("by mutual inform.", self.mutual_information.as_ref()),
        ]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.evaluation)?;
        if let Some(RiskCoverage { aurc, aurc_best, right_from_wrong, .. }) = &self.selective {
            writeln!(f, "AURC                 {aurc:.4}  (at best {aurc_best:.4})")?;
            if let Some(separation) = right_from_wrong {
                writeln!(f, "right from wrong     {}", Shown(separation))?;
            }
        }
        writeln!(f, "entropy              {:.4}", self.entropy)?;
        writeln!(f, "mutual information   {:.4}", self.mutual_information)?;
        if let Some(promises) = &self.calibrated {
            writeln!(f, "temperature          {:.4}", promises.temperature)?;
            if let (Some(found), Some(promised)) = (promises.coverage, promises.coverage_promised) {
                let [found, promised] = [found, promised].map(percent);
                writeln!(f, "intervals            {found} hold the number ({promised} promised)")?;
            }
            let [alarms, allowed] =
                [promises.false_alarms, promises.false_alarms_promised].map(percent);
            writeln!(f, "called unfamiliar    {alarms} ({allowed} at most promised)")?;
        }
        if let Some(ood) = &self.ood {
            writeln!(f, "\nforeign images       {}", ood.count)?;
            for (name, separation) in ood.by_score() {
                if let Some(separation) = separation {
                    writeln!(f, "{name:20} {}", Shown(separation))?;
                }
            }
            if let Some(share) = ood.detected {
                writeln!(f, "called unfamiliar    {}", percent(share))?;
            }
        }
        write_race(f, &self.race)
    }
}
