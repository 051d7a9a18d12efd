//! `adapt`: from labelled examples to a posterior, with the linear probe beside it.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Instant;

use clap::{Args, ValueEnum};
use priorfit::adapt::{
    Adapted, Adapter, Candidate, Checkpoints, Choice, Ending, Epoch, Existing, Footprint,
    PosteriorKind, PosteriorSettings, PriorKind, Recipe, SGHMC_RATE, Settings, Summary,
};
use priorfit::backend::Engine;
use priorfit::claim::Claim;
use priorfit::data::Dataset;
use priorfit::error::{Context, Error, Kind as Failure, Result};
use priorfit::job::{Job, JobOptions, StopReason};
use priorfit::posterior::Posterior;
use priorfit::posterior::metrics::Measure;
use priorfit::prior::Prior;
use priorfit::task::Task;
use priorfit::update::Optimizer;
use serde::Serialize;

use crate::globals::Globals;
use crate::monitor::{INTERRUPTED, Monitor};
use crate::options::{
    AugmentArgs, Auto, BudgetArgs, ByteSize, CheckpointArgs, Clip, Destination, Precision,
    PreprocessArgs, check_destination, percent,
};
use crate::process::{peak_rss_mb, peak_rss_text};
use crate::tasks::TaskArgs;
use crate::{backbone, tasks};

/// Adapt a backbone to labelled examples, under a prior over its weights
///
/// First the head alone is trained on the frozen features (the linear probe), then all weights
/// under the prior. The result is a folder that `predict` and `evaluate` read. Ctrl-C stops after
/// the step in hand, saves the last good state, and exits with status 130; so does --time-budget.
/// Until the result is saved, checkpoints are kept in its folder: whatever ends the run, a power
/// cut included, the same command goes on, to the same bits.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  priorfit adapt --backbone b.onnx --train photos/ --out mine/
  priorfit adapt --backbone b.onnx --prior prior.safetensors --train train.npz --val val.npz \\
      --out mine/ --strength 30 --epochs 20 --flip --crop 2
  priorfit adapt --backbone b.onnx --prior prior.safetensors --prior diagonal ...
  priorfit adapt --backbone b.onnx --prior none --freeze 'layer1.*' ...
  priorfit adapt --backbone b.onnx --posterior sghmc --steps 1000 --chains 2 --draws 16 ...
  priorfit adapt --backbone b.onnx --duty-cycle 0.5 --time-budget 90s --low-priority ...
  priorfit adapt --backbone b.onnx --train photos/ --out mine/ --restart

--prior takes a stored prior's file (any value that ends in .safetensors or contains a path
separator), one of the words below, or is given twice for both:
  learned    the stored prior, diagonal plus low rank; the default with a file
  diagonal   the stored prior's diagonal
  isotropic  the same variance for all weights, around the stored mean, or without a file around
             the backbone's weights (L2-SP); the default without a file
  weight-decay
             the variance --strength for all weights, around zero, from the backbone's weights on;
             takes nothing from a file
  none       no prior

Data, and the task that they make if --task does not say otherwise:
  classify    a folder with one subfolder of images for each class; an .npz with x and integers
              y [N]
  multilabel  a folder of images with labels.csv: file,label;label;..; an .npz with y [N,C] of 0, 1
  regress     a folder of images with labels.csv: file,number,..; an .npz with floats y [N] or [N,D]
  segment     a folder with images/ and, of the same names, masks/ (indexed or grey PNG); an .npz
              with integers y [N,H,W]")]
pub struct Adapt {
    /// The ONNX file; a classifier at its end is cut off
    #[arg(long, value_name = "FILE")]
    backbone: PathBuf,
    /// A stored prior's file, or learned, diagonal, isotropic, weight-decay or none; may be given
    /// twice
    #[arg(long, value_name = "FILE|KIND")]
    prior: Vec<PriorArg>,
    /// Labelled examples
    #[arg(long, value_name = "DATA")]
    train: PathBuf,
    /// Held-out labelled examples, to measure what was gained
    #[arg(long, value_name = "DATA")]
    val: Option<PathBuf>,
    /// The folder for the result
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Value or node of the file that holds the features
    #[arg(long, value_name = "NAME")]
    features: Option<String>,
    #[command(flatten)]
    task: TaskArgs,
    #[command(flatten)]
    prior_options: PriorOptions,
    #[command(flatten)]
    training: Training,
    #[command(flatten)]
    posterior: PosteriorOptions,
    #[command(flatten)]
    budget: BudgetArgs,
    #[command(flatten)]
    checkpoints: CheckpointArgs,
    #[command(flatten)]
    preprocess: PreprocessArgs,
    #[command(flatten)]
    augment: AugmentArgs,
}

#[derive(Args)]
#[command(next_help_heading = "Prior")]
struct PriorOptions {
    /// What multiplies the prior's covariance: larger is weaker. auto chooses it by
    /// cross-validation on the training examples
    #[arg(long, value_name = "L|auto", default_value = "auto")]
    strength: Auto,
    /// Variance of the isotropic prior before --strength
    #[arg(long, value_name = "V", default_value_t = Settings::default().isotropic_variance)]
    isotropic_variance: f64,
    /// Variance of the head's own prior. auto chooses it by cross-validation of the linear probe
    #[arg(long, value_name = "V|auto", default_value = "auto")]
    head_variance: Auto,
    /// Keep the adapted weights even where cross-validation finds the linear probe as good, and
    /// draws however they predict. With a given --strength nothing is cross-validated then but the
    /// head
    #[arg(long)]
    no_gate: bool,
}

#[derive(Args)]
#[command(next_help_heading = "Training")]
struct Training {
    /// The optimiser
    #[arg(long, value_enum, default_value = "sgd")]
    optimizer: Method,
    /// Base learning rate; it falls to 0 along half a cosine, for each strength that is tried
    /// [default: 0.01; 0.002 with --posterior sghmc, whose first steps nothing clips]
    #[arg(long)]
    lr: Option<f32>,
    /// Momentum of sgd
    #[arg(long, default_value_t = 0.9)]
    momentum: f32,
    /// Steps after the linear probe, of each chain or member; 0 keeps the probe [default: as many
    /// as 12 passes over the examples take, but at least 200 and at most 1000]
    #[arg(long, conflicts_with = "epochs")]
    steps: Option<usize>,
    /// Passes over the examples, instead of --steps
    #[arg(long)]
    epochs: Option<usize>,
    /// Examples of a step
    #[arg(long, default_value_t = Settings::default().batch_size)]
    batch: usize,
    /// Largest norm of the loss's gradient, or none [default: 2; none with --posterior sgld or
    /// sghmc, which clipping would bias]
    #[arg(long, value_name = "NORM")]
    clip: Option<Clip>,
    /// Names of parameters that stay as they are; * stands for any run of characters
    #[arg(long, value_name = "PATTERN")]
    freeze: Vec<String>,
    /// Most memory for weights, prior and activations, such as 512M or 2G (of 1024s): activations
    /// are computed again and batches split as far as it takes, or the run does not start
    #[arg(long, value_name = "SIZE")]
    memory_cap: Option<ByteSize>,
    /// Decides every random choice
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Method {
    /// Stochastic gradient descent with Nesterov's momentum
    Sgd,
    /// Adam with decoupled weight decay, which the prior takes the place of
    Adamw,
}

#[derive(Args)]
#[command(next_help_heading = "Posterior")]
struct PosteriorOptions {
    /// What predictions are averaged over. Draws have to predict held-out examples as well as the
    /// linear probe, unless --no-gate: they are made on each fold's rest too, which takes about as
    /// long again. Where they do not, one network is kept
    #[arg(long, value_enum, default_value = "map", value_name = "KIND")]
    posterior: Kind,
    /// Draws in all [default: 1 for map, 5 for ensemble, 12 for sgld and sghmc, 20 for swag and
    /// laplace]
    #[arg(long, value_name = "N")]
    draws: Option<usize>,
    /// Runs of sgld, sghmc or swag, each of --steps steps with a seed of its own
    #[arg(long, value_name = "C", default_value_t = PosteriorSettings::default().chains)]
    chains: usize,
    /// Cycles of a chain of sgld or sghmc: in each the rate falls from --lr to 0, the first quarter
    /// adds no noise, and draws are spread over the rest; 0 keeps the rate constant
    #[arg(long, value_name = "N", default_value_t = PosteriorSettings::default().cycles)]
    cycles: usize,
    /// Temperature of the draws: 1 is the posterior, less is narrower, 0 adds no noise [default: 1
    /// for swag, 0.01 for sgld, sghmc and laplace]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f32>,
    /// Share of the velocity that a step of sghmc loses; 0.1 is momentum 0.9
    #[arg(long, value_name = "A", default_value_t = PosteriorSettings::default().friction)]
    friction: f32,
    /// Make the step of sgld or sghmc proportional to a weight's variance under the prior
    #[arg(long)]
    precondition: bool,
    /// Precision that the draws' differences are stored in
    #[arg(long, value_enum, default_value = "f32", value_name = "P")]
    draw_precision: Precision,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Kind {
    /// The likeliest weights: one draw
    Map,
    /// Stochastic gradient Langevin dynamics
    Sgld,
    /// Stochastic gradient Hamiltonian Monte Carlo: faster than sgld, with one more copy of the
    /// weights in memory
    Sghmc,
    /// A Gaussian fitted to the second half of a run at a constant rate
    Swag,
    /// A Gaussian of the head around map, which itself takes seconds
    Laplace,
    /// map several times from different heads: --draws times the time
    Ensemble,
}

impl From<Kind> for PosteriorKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Map => PosteriorKind::Map,
            Kind::Sgld => PosteriorKind::Sgld,
            Kind::Sghmc => PosteriorKind::Sghmc,
            Kind::Swag => PosteriorKind::Swag,
            Kind::Laplace => PosteriorKind::Laplace,
            Kind::Ensemble => PosteriorKind::Ensemble,
        }
    }
}

/// One value of `--prior`.
#[derive(Clone)]
enum PriorArg {
    File(PathBuf),
    Kind(PriorKind),
}

impl FromStr for PriorArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let path = Path::new(text);
        Ok(match text {
            "learned" => PriorArg::Kind(PriorKind::Learned),
            "diagonal" => PriorArg::Kind(PriorKind::Diagonal),
            "isotropic" => PriorArg::Kind(PriorKind::Isotropic),
            "weight-decay" => PriorArg::Kind(PriorKind::WeightDecay),
            "none" => PriorArg::Kind(PriorKind::None),
            _ if path.extension() == Some(OsStr::new("safetensors"))
                || path.components().count() > 1 =>
            {
                PriorArg::File(path.to_path_buf())
            }
            _ => {
                return Err("expected a .safetensors file, or learned, diagonal, isotropic, \
                            weight-decay or none"
                    .to_string());
            }
        })
    }
}

/// The folder for checkpoints, in that of the result.
pub const CHECKPOINTS: &str = "checkpoints";
/// The one of `forget`, which makes a result again.
pub const FORGETTING: &str = "forgetting";

#[derive(Serialize)]
struct Report {
    out: PathBuf,
    ending: Ending,
    /// Why it ended before its last step, if it was asked to.
    stopped_by: Option<StopReason>,
    /// Whether the same command goes on from here.
    resumable: bool,
    notice: Option<String>,
    draws: usize,
    task: Task,
    examples: usize,
    settings: Settings,
    notes: Vec<String>,
    memory: Footprint,
    /// What the last step ran on.
    ran_on: String,
    /// The linear probe and the adapted network on the held-out examples.
    probe: Option<Summary>,
    adapted: Option<Summary>,
    choice: Option<Choice>,
    history: Vec<Epoch>,
    seconds: f64,
    peak_rss_mb: Option<f64>,
}

impl Training {
    /// How long a run is where that depends on the examples.
    fn length(&self) -> Recipe {
        match (self.steps, self.epochs) {
            (Some(_), _) => Recipe::default(),
            (None, Some(epochs)) => Recipe { epochs: Some(epochs), ..Recipe::default() },
            (None, None) => Recipe::suggested(),
        }
    }
}

impl Adapt {
    /// Runs the command.
    pub fn run(&self, globals: &Globals, started: Instant) -> Result<ExitCode> {
        check_destination(&self.out, Destination::Folder)?;
        let _claim = Claim::take(&self.out)?;
        let (prior, kind) = self.prior()?;
        let engine = globals.engine()?;
        let train = self.task.open(&self.train)?;
        let task = Task::of(&train).context(|| self.train.display().to_string())?;
        let load = if task.is_dense() { backbone::load_map } else { backbone::load };
        let model = load(&self.backbone, self.features.as_deref())?;
        model.notes().iter().for_each(|note| globals.note(note));
        let validation = self.validation(&task)?;
        let examples = train.len();
        let recipe = Recipe { input: Some(self.preprocess.input()?), ..self.training.length() };
        let settings = self.settings(kind, &recipe, examples);
        let preprocess = self.preprocess.resolve(&model, &train, engine.threads())?;
        backbone::check_import(&self.backbone, &model, &preprocess)?;
        let notes = model.notes().to_vec();
        let mut adapter = Adapter::new(model, preprocess, &engine);
        if let Some((prior, path)) = prior {
            adapter = adapter.with_prior(prior).context(|| path.display().to_string())?;
        }
        let mut adapter = adapter.with_settings(settings.clone())?.with_recipe(recipe);
        let checkpoints = self.checkpoints.checkpoints(self.out.join(CHECKPOINTS), globals)?;
        if let Some(checkpoints) = &checkpoints {
            adapter = adapter.with_checkpoints(checkpoints.clone());
        }
        let mut monitor = Monitor::new(globals)?;
        let options = JobOptions {
            budget: self.budget.budget(),
            checkpoint_every: Some(self.checkpoints.every()),
            ..JobOptions::default()
        };
        let job = Job::start(adapter, train, validation.clone(), options)?;
        let stopped_by = monitor.follow(&job);
        let Adapted { posterior, probe, history, ending, notice, memory, ran_on, choice } =
            joined(job, checkpoints.as_ref())?;
        let resumable = ending == Ending::Stopped && checkpoints.is_some();
        self.save(&posterior, checkpoints.filter(|_| !resumable))?;
        let measured = |posterior: &Posterior| match (&validation, ending) {
            (None, _) | (_, Ending::Stopped) => Ok(None),
            (Some(data), _) => measure(posterior, data, &engine).map(Some),
        };
        globals.print(&Report {
            probe: measured(&probe)?,
            adapted: measured(&posterior)?,
            out: self.out.clone(),
            ending,
            stopped_by,
            resumable,
            notice,
            draws: posterior.draws().len(),
            task,
            examples,
            settings,
            notes,
            memory,
            ran_on,
            choice,
            history,
            seconds: started.elapsed().as_secs_f64(),
            peak_rss_mb: peak_rss_mb(),
        })?;
        Ok(match ending {
            Ending::Completed => ExitCode::SUCCESS,
            Ending::Stopped => ExitCode::from(INTERRUPTED),
            Ending::Diverged => ExitCode::FAILURE,
        })
    }

    /// Saves the result; then the checkpoints that led to it are needed no more.
    fn save(&self, posterior: &Posterior, checkpoints: Option<Checkpoints>) -> Result<()> {
        posterior.save_as(&self.out, self.posterior.draw_precision.into())?;
        // Those of a `forget` that did not come to its end are of a model that is no more.
        let path = self.out.join(FORGETTING);
        Checkpoints { path, existing: Existing::Supersede }.remove()?;
        checkpoints.map_or(Ok(()), |checkpoints| checkpoints.remove())
    }

    /// The stored prior with its file, and the kind that is wanted.
    fn prior(&self) -> Result<(Option<(Prior, &Path)>, PriorKind)> {
        let (mut file, mut kind) = (None, None);
        for value in &self.prior {
            let is_new = match value {
                PriorArg::File(path) => file.replace(path.as_path()).is_none(),
                PriorArg::Kind(wanted) => kind.replace(*wanted).is_none(),
            };
            if !is_new {
                return Err(Error::invalid("--prior is given twice in the same sense")
                    .hint("expected at most one file and one kind"));
            }
        }
        let default = if file.is_some() { PriorKind::Learned } else { PriorKind::Isotropic };
        let stored = file.map(|path| Ok((Prior::load(path)?, path))).transpose()?;
        Ok((stored, kind.unwrap_or(default)))
    }

    /// The held-out examples, labelled as the training examples are.
    fn validation(&self, task: &Task) -> Result<Option<Dataset>> {
        let open = |path: &PathBuf| {
            let data = self.task.open(path)?;
            task.align(&data).context(|| path.display().to_string())
        };
        self.val.as_ref().map(open).transpose()
    }

    fn settings(&self, prior: PriorKind, recipe: &Recipe, examples: usize) -> Settings {
        let PriorOptions { strength, isotropic_variance, head_variance, no_gate } =
            self.prior_options;
        let (t, p) = (&self.training, &self.posterior);
        let defaults = Settings::default();
        Settings {
            prior,
            strength: strength.0,
            isotropic_variance,
            head_variance: head_variance.0,
            gate: !no_gate,
            posterior: PosteriorSettings {
                kind: p.posterior.into(),
                draws: p.draws,
                chains: p.chains,
                cycles: p.cycles,
                temperature: p.temperature,
                friction: p.friction,
                precondition: p.precondition,
            },
            optimizer: match t.optimizer {
                Method::Sgd => Optimizer::Sgd { momentum: t.momentum },
                Method::Adamw => Optimizer::adamw(),
            },
            learning_rate: match (t.lr, p.posterior) {
                (Some(rate), _) => rate,
                (None, Kind::Sghmc) => SGHMC_RATE,
                (None, _) => defaults.learning_rate,
            },
            steps: recipe.steps(t.steps.unwrap_or(defaults.steps), examples, t.batch),
            batch_size: t.batch,
            clip: match (t.clip, p.posterior) {
                (Some(clip), _) => clip.0,
                (None, Kind::Sgld | Kind::Sghmc) => None,
                (None, _) => defaults.clip,
            },
            freeze: t.freeze.clone(),
            augment: self.augment.augment(),
            memory_cap: t.memory_cap.map(|size| size.0),
            seed: t.seed,
            ..defaults
        }
    }
}

/// What a job came to. What diverged would do so again: its checkpoints are of no use.
fn joined(job: Job, checkpoints: Option<&Checkpoints>) -> Result<Adapted> {
    let outcome = job.join();
    if let (Err(error), Some(checkpoints)) = (&outcome, checkpoints)
        && error.kind() == Failure::Diverged
    {
        checkpoints.remove()?;
    }
    outcome
}

/// What cross-validation found, as lines of a table.
fn choice_text(choice: &Choice) -> String {
    let Choice { folds, held_out, head_variance, candidates, kept, draws, keeps_draws, left_out } =
        choice;
    let mut text = format!(
        "\nCross-validation of {held_out} examples in {folds} folds, head variance \
         {head_variance}\nkept  after steps    strength  temperature {:>9}      NLL     ECE\n",
        candidates[0].held_out.measure
    );
    let has_draws = draws.is_some() && *keeps_draws;
    for (at, candidate) in candidates.iter().enumerate() {
        let name = if at == 0 { "probe".to_string() } else { candidate.steps.to_string() };
        text += &candidate_text(at == *kept && !has_draws, &name, candidate);
    }
    if let Some(draws) = draws {
        text += &candidate_text(has_draws, "draws", draws);
    }
    if let Some(reason) = left_out {
        text += &format!("A run diverged: {reason}\n");
    }
    if *kept == 0 && candidates.len() > 1 {
        text += "The linear probe is kept: training all weights did not better its likelihood.\n";
    }
    if draws.is_some() && !keeps_draws {
        text +=
            "One network is kept: an average over draws predicted worse than the linear probe.\n";
    }
    text
}

fn candidate_text(is_kept: bool, name: &str, candidate: &Candidate) -> String {
    let Candidate { strength, temperature, held_out, .. } = candidate;
    let mark = if is_kept { "*" } else { "" };
    let strength = strength.map_or("-".to_string(), |strength| format!("{strength:.3e}"));
    let Summary { nll, ece, .. } = held_out;
    format!(
        "{mark:>4}  {name:>11}  {strength:>10}  {temperature:>11.3} {:>9}  {nll:>7.4} {ece:>7.4}\n",
        score_text(held_out)
    )
}

/// The headline's score as people write it.
fn score_text(summary: &Summary) -> String {
    match summary.measure {
        Measure::Accuracy => percent(summary.score),
        _ => format!("{:.4}", summary.score),
    }
}

/// Headline metrics of a posterior on labelled examples.
fn measure(posterior: &Posterior, data: &Dataset, engine: &Engine) -> Result<Summary> {
    Ok(posterior.evaluate(data, engine, &mut |_| true)?.summary())
}

/// What a run took, and what was done about it.
fn memory_text(memory: &Footprint) -> String {
    let mut text = format!("{:.1} MiB planned", memory.bytes as f64 / f64::from(1 << 20));
    if memory.micro_batch < memory.batch {
        text += &format!(", batches of {} in parts of {}", memory.batch, memory.micro_batch);
    }
    if memory.recomputes {
        text += ", activations computed twice";
    }
    text
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ending == Ending::Stopped {
            let why = match self.stopped_by {
                Some(StopReason::WallTime) => "The time is up",
                _ => "Interrupted",
            };
            writeln!(f, "{why}: this is the last good state.")?;
            if self.resumable {
                writeln!(f, "The same command goes on.")?;
            }
        }
        if let Some(notice) = &self.notice {
            writeln!(f, "Diverged: {notice}")?;
        }
        writeln!(f, "result    {}", self.out.display())?;
        writeln!(f, "learned   {} from {} examples", tasks::describe(&self.task), self.examples)?;
        if self.draws > 1 {
            writeln!(f, "draws     {}", self.draws)?;
        }
        if let Some(last) = self.history.last() {
            writeln!(f, "training  loss {:.4}, penalty {:.4}", last.loss, last.penalty)?;
        }
        writeln!(f, "ran on    {}", self.ran_on)?;
        writeln!(f, "memory    {}", memory_text(&self.memory))?;
        writeln!(f, "took      {:.1} s, {}", self.seconds, peak_rss_text(self.peak_rss_mb))?;
        match &self.choice {
            Some(choice) => write!(f, "{}", choice_text(choice))?,
            None if self.settings.gate && self.ending == Ending::Completed => writeln!(
                f,
                "\nToo few examples to hold any out: default strengths hold, and nothing was \
                 compared with the linear probe."
            )?,
            None => {}
        }
        if let (Some(probe), Some(adapted)) = (&self.probe, &self.adapted) {
            writeln!(f, "\nheld-out     {:>9}     NLL     ECE", probe.measure)?;
            for (name, summary) in [("linear probe", probe), ("adapted", adapted)] {
                let score = score_text(summary);
                let Summary { nll, ece, .. } = summary;
                writeln!(f, "{name:12} {score:>9} {nll:>7.4} {ece:>7.4}")?;
            }
        }
        Ok(())
    }
}
