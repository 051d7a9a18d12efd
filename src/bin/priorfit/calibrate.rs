//! `calibrate`: what held-out examples teach about a posterior's predictions.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use priorfit::data::Dataset;
use priorfit::error::{Context, Result};
use priorfit::posterior::{
    Abstention, CERTAINTY, Calibration, CalibrationSettings, Intervals, Posterior, Score, Target,
};
use serde::Serialize;

use crate::globals::Globals;
use crate::monitor::Monitor;
use crate::options::percent;

/// Make probabilities honest, with held-out examples
///
/// Half of the examples, chosen at random, set the temperature that probabilities are softened
/// with. The other half set thresholds: which classes a prediction set has, when to abstain, and
/// when an image looks like none of them. All is stored in the posterior's folder, where `predict`
/// and `evaluate` find it. The examples must not have been trained on.
///
/// Labels and masks have a temperature, numbers a noise and intervals that hold them as often as
/// promised; all of them tell unfamiliar images. Sets and abstaining are of classes.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  priorfit calibrate --posterior mine/ --data val/
  priorfit calibrate --posterior mine/ --data val.npz --coverage 0.95 --risk 0.05
  priorfit calibrate --posterior mine/ --data val/ --answer 0.8

A promise holds for new images that are like the held-out ones, on average over all of them.")]
pub struct Calibrate {
    /// The folder that `adapt` wrote
    #[arg(long, value_name = "DIR")]
    posterior: PathBuf,
    /// Held-out labelled examples as `adapt` takes them, 20 or more
    #[arg(long, value_name = "DATA")]
    data: PathBuf,
    /// How often prediction sets are to hold the true class, or intervals the true number
    #[arg(long, value_name = "SHARE", default_value_t = CalibrationSettings::default().coverage)]
    coverage: f64,
    /// Abstain so that at most this share of answers is wrong, with a certainty of 95 %
    #[arg(long, value_name = "SHARE", conflicts_with = "answer")]
    risk: Option<f64>,
    /// Abstain so that about this share of images is answered
    #[arg(long, value_name = "SHARE")]
    answer: Option<f64>,
    /// Largest share of familiar images that may be called unfamiliar
    #[arg(long, value_name = "SHARE")]
    #[arg(default_value_t = CalibrationSettings::default().false_alarms)]
    false_alarms: f64,
    /// Decides which examples are in which half
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Serialize)]
struct Report {
    posterior: PathBuf,
    #[serde(flatten)]
    calibration: Calibration,
}

impl Calibrate {
    /// Runs the command.
    pub fn run(&self, globals: &Globals) -> Result<ExitCode> {
        let posterior = Posterior::load(&self.posterior)?;
        let in_data = || self.data.display().to_string();
        let data = Dataset::open(&self.data)?;
        let data = posterior.description().task.align(&data).context(in_data)?;
        let settings = CalibrationSettings {
            coverage: self.coverage,
            abstention: self.risk.map(Target::Risk).or(self.answer.map(Target::Coverage)),
            false_alarms: self.false_alarms,
            seed: self.seed,
        };
        let mut monitor = Monitor::new(globals)?;
        let engine = globals.engine()?;
        let fitted = posterior.calibrate(&data, engine, &settings, &mut |p| monitor.predicting(p));
        monitor.finish();
        let calibration = fitted.context(in_data)?;
        let calibrated = posterior.with_calibration(Some(calibration.clone()))?;
        calibrated.save_description(&self.posterior)?;
        globals.print(&Report { posterior: self.posterior.clone(), calibration })?;
        Ok(ExitCode::SUCCESS)
    }
}

fn write_intervals(f: &mut fmt::Formatter<'_>, intervals: &Intervals) -> fmt::Result {
    let coverage = percent(intervals.coverage);
    let Some(halves) = &intervals.half_widths else {
        return writeln!(f, "intervals    none: too few examples to promise {coverage}");
    };
    let halves: Vec<String> = halves.iter().map(|half| format!("{half:.3}")).collect();
    writeln!(f, "intervals    {coverage}: ± {} standard deviations", halves.join(", "))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Calibration { temperature, temperature_examples, threshold_examples, .. } =
            self.calibration;
        let Calibration { sets, intervals, abstention, familiarity, .. } = &self.calibration;
        match intervals {
            None => {
                writeln!(f, "temperature  {temperature:.4}, from {temperature_examples} examples")?
            }
            Some(_) => writeln!(f, "noise        from {temperature_examples} examples")?,
        }
        writeln!(f, "thresholds   from {threshold_examples} others")?;
        if let Some(sets) = sets {
            let coverage = percent(sets.coverage);
            match sets.probability_min {
                0.0 => {
                    writeln!(
                        f,
                        "sets         all classes: too few examples to promise {coverage}"
                    )?;
                }
                least => writeln!(f, "sets         {coverage}: classes of probability {least:.4}")?,
            }
        }
        if let Some(intervals) = intervals {
            write_intervals(f, intervals)?;
        }
        match abstention {
            None if sets.is_none() => {}
            None => writeln!(f, "abstains     never")?,
            Some(Abstention { target, confidence_min }) => {
                write!(f, "abstains     below {confidence_min:.4}, ")?;
                match target {
                    Target::Risk(risk) => {
                        let (risk, certainty) = (percent(*risk), percent(CERTAINTY));
                        writeln!(f, "so that at most {risk} are wrong (certainty {certainty})")?;
                    }
                    Target::Coverage(share) => writeln!(f, "to answer {}", percent(*share))?,
                }
            }
        }
        let alarms = percent(familiarity.false_alarms);
        let score = match familiarity.score {
            Score::Entropy => "entropy",
            Score::MutualInformation => "mutual information",
        };
        match familiarity.highest {
            None => writeln!(f, "unfamiliar   none: too few examples to promise {alarms}"),
            Some(most) => writeln!(f, "unfamiliar   {score} over {most:.4}, false for {alarms}"),
        }
    }
}
