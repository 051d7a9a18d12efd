//! Forgetting: an adaptation made again as if some of its examples had never been there.
//!
//! A posterior carries a [`Record`] of what it was made from: which examples in which order, and
//! what the rest of its settings was derived from. A [`Replay`] finds these examples in the data,
//! leaves out those that are to be forgotten, and gives the adapter that makes the model of the
//! rest. All that the removed examples had a part in is made anew: names of classes, statistics of
//! the pixels, the number of steps, what cross-validation finds, the weights. Nothing goes on from
//! the old weights, so the result has the bits of a run that never saw them.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Adapter, InputSettings, Settings};
use crate::backend::Engine;
use crate::data::{Dataset, Identity, Preprocess};
use crate::error::{Context, Error, Result};
use crate::onnx::Model;
use crate::posterior::Posterior;
use crate::prior::Prior;
use crate::task::Task;
use crate::threads::Threads;

#[cfg(test)]
mod tests;

/// The version of a [`Record`].
const VERSION: u32 = 1;
/// Fewest digits of a hash that stand for all of it.
const DIGITS_MIN: usize = 8;

/// What an adapter was made from where that depends on the examples. What is not said here was
/// given, and stays when examples are forgotten.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What the preprocessing was resolved from.
    pub input: Option<InputSettings>,
    /// Passes over the examples that the number of steps was computed from.
    pub epochs: Option<usize>,
    /// The fewest and the most steps that these passes may come to, if there are bounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounds: Option<[usize; 2]>,
}

impl Recipe {
    /// Passes over the examples where nobody says how long a run is to be.
    pub const EPOCHS: usize = 12;
    /// The fewest and the most steps that those come to: few examples need more passes to be
    /// learned, and many teach before all have been seen so often.
    pub const BOUNDS: [usize; 2] = [200, 1000];

    /// A run as long as its examples suggest.
    pub fn suggested() -> Self {
        Recipe { input: None, epochs: Some(Self::EPOCHS), bounds: Some(Self::BOUNDS) }
    }

    /// The steps of a run over so many examples; `given` where no passes are counted.
    pub fn steps(&self, given: usize, examples: usize, batch_size: usize) -> usize {
        let per_epoch = examples.div_ceil(batch_size.max(1));
        let [least, most] = self.bounds.unwrap_or([0, usize::MAX]);
        let bounded = |epochs: usize| epochs.saturating_mul(per_epoch).min(most).max(least);
        self.epochs.map_or(given, bounded)
    }
}

/// What a model was made from, beside its settings. Examples are told by the hashes of
/// [`Identity::example`], in the order of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    version: u32,
    /// The version of this crate.
    pub program: String,
    /// The training examples.
    pub train: Vec<String>,
    /// The examples that were predicted after each epoch, if there were any.
    pub validation: Option<Vec<String>>,
    /// The fingerprint of the stored prior, if there was one.
    pub prior: Option<String>,
    /// What depended on the examples.
    pub recipe: Recipe,
    /// The device, which decides the rounding.
    pub device: String,
}

impl Record {
    /// The same of a run on this backend. The number of a processor's threads changes no bit.
    pub(super) fn made_on(&self, backend: &str) -> Self {
        Record { device: device(backend).to_string(), ..self.clone() }
    }
}

/// The device of a backend of this name.
fn device(backend: &str) -> &str {
    if backend.starts_with("cpu (") { "cpu" } else { backend }
}

impl Adapter {
    /// The same with what it was made from. Without it, forgetting takes its preprocessing and
    /// number of steps as given, even if they were derived from the examples.
    pub fn with_recipe(mut self, recipe: Recipe) -> Self {
        self.recipe = recipe;
        self
    }

    /// What makes the result again, but for the device.
    pub(super) fn record(&self, train: &Dataset, validation: Option<&Dataset>) -> Result<Record> {
        let hashes = |data: &Dataset| -> Result<Vec<String>> {
            let identities = data.identities(self.engine.threads())?;
            Ok(identities.into_iter().map(|identity| identity.example).collect())
        };
        Ok(Record {
            version: VERSION,
            program: env!("CARGO_PKG_VERSION").to_string(),
            train: hashes(train)?,
            validation: validation.map(hashes).transpose()?,
            prior: self.prior.as_ref().map(Prior::fingerprint).transpose()?,
            recipe: self.recipe.clone(),
            device: String::new(),
        })
    }
}

/// What is to be forgotten. With an image go all its copies, whatever their targets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forget {
    /// Training examples, by their places in the data.
    pub train: Vec<usize>,
    /// Held-out examples, by theirs.
    pub validation: Vec<usize>,
    /// Examples by their hashes in the [`Record`], or the first digits of these.
    pub hashes: Vec<String>,
    /// Those that the data do not have any more.
    pub missing: bool,
}

/// The examples of a model as they lie somewhere now, before they are read as its task. There may
/// be others among them.
#[derive(Clone, Copy)]
pub struct Data<'a> {
    /// Those that it was trained on.
    pub train: &'a Dataset,
    /// Those that were predicted after each epoch, if there were any.
    pub validation: Option<&'a Dataset>,
}

/// What is left, and what is not.
#[derive(Clone, Debug)]
pub struct Rest {
    /// The training examples that are left, in the order of the first run.
    pub train: Dataset,
    /// The held-out ones; none where all of them are forgotten.
    pub validation: Option<Dataset>,
    /// The hashes of the training examples that are forgotten.
    pub train_forgotten: Vec<String>,
    /// Those of the held-out ones.
    pub validation_forgotten: Vec<String>,
    /// The places in the data of all images to forget, those that are not the model's included.
    pub places: Forget,
    /// Examples of the data that are not the model's.
    pub others: usize,
}

impl Rest {
    /// Whether the model has nothing of what was to be forgotten.
    pub fn is_untouched(&self) -> bool {
        self.train_forgotten.is_empty() && self.validation_forgotten.is_empty()
    }
}

/// Makes a model again.
pub struct Replay {
    record: Record,
    settings: Settings,
    model: Arc<Model>,
    task: Task,
    preprocess: Preprocess,
}

impl Replay {
    /// What is known of how `posterior` was made.
    ///
    /// # Errors
    /// When it has no record, as models of earlier versions, or one that is not understood.
    pub fn of(posterior: &Posterior) -> Result<Self> {
        let description = posterior.description();
        let provenance = &description.provenance;
        let record = provenance.get("record").filter(|record| !record.is_null());
        let record = record.ok_or_else(|| {
            Error::unsupported("the model has no record of the examples it was made from")
                .hint("earlier versions kept none: adapt again without the examples to forget")
        })?;
        let malformed = |what: &'static str| {
            move |e: serde_json::Error| {
                Error::malformed(format!("the model's {what}: {e}")).caused_by(e)
            }
        };
        let record = Record::deserialize(record).map_err(malformed("record"))?;
        if record.version != VERSION {
            let message = format!("the model's record has version {}", record.version);
            return Err(Error::unsupported(message).hint(format!("expected version {VERSION}")));
        }
        let settings = provenance.get("settings").unwrap_or(&serde_json::Value::Null);
        Ok(Replay {
            record,
            settings: Settings::deserialize(settings).map_err(malformed("settings"))?,
            model: posterior.shared_backbone(),
            task: description.task.clone(),
            preprocess: description.preprocess.clone(),
        })
    }

    /// What the model was made from.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Whether a run on `backend`, by its name, rounds as the first did.
    pub fn is_of_device(&self, backend: &str) -> bool {
        device(backend) == self.record.device
    }

    /// The model's examples in `data` without those that are to be forgotten.
    ///
    /// # Errors
    /// When the data lack an example that is not to be forgotten, a hash is none of the model's, or
    /// nothing that can be trained on is left.
    pub fn without(&self, data: Data<'_>, forget: &Forget, threads: &Threads) -> Result<Rest> {
        let held = match (data.validation, &self.record.validation) {
            (None, None) => None,
            (Some(held), Some(hashes)) => Some((self.task.align(held)?, hashes, held)),
            (held, _) => return Err(other_validation(held.is_some())),
        };
        let train = self.read(data.train)?.identities(threads)?;
        let held_out = held.as_ref().map_or(Ok(Vec::new()), |held| held.0.identities(threads))?;
        let known = self.record.train.iter().chain(self.record.validation.iter().flatten());
        let hashes = resolve(&forget.hashes, &known.map(String::as_str).collect())?;
        let mut images = images_at(&train, &forget.train)?;
        images.extend(images_at(&held_out, &forget.validation)?);
        let examples = train.iter().chain(&held_out);
        let hashed = examples.filter(|identity| hashes.contains(identity.example.as_str()));
        images.extend(hashed.map(|identity| identity.image.as_str()));
        let gone = Gone { hashes, images, missing: forget.missing };
        let part = gone.leave(&self.record.train, &train).context(|| "the data".to_string())?;
        let (validation, validation_forgotten, others) = match &held {
            None => (None, Vec::new(), 0),
            Some((_, hashes, raw)) => {
                let part = gone.leave(hashes, &held_out);
                let part = part.context(|| "the held-out data".to_string())?;
                let left = (!part.kept.is_empty()).then(|| raw.only(&part.kept)).transpose()?;
                (left, part.forgotten, part.others)
            }
        };
        let rest = match part.kept.is_empty() {
            true => return Err(nothing_left()),
            false => self.read(&data.train.only(&part.kept)?)?,
        };
        let task = Task::of(&rest).map_err(|e| e.context("without what is to be forgotten"))?;
        let places = |identities: &[Identity]| {
            let is_named = |&at: &usize| gone.images.contains(identities[at].image.as_str());
            (0..identities.len()).filter(is_named).collect()
        };
        Ok(Rest {
            validation: validation.map(|held| task.align(&held)).transpose()?,
            train: rest,
            train_forgotten: part.forgotten,
            validation_forgotten,
            places: Forget {
                train: places(&train),
                validation: places(&held_out),
                ..Forget::default()
            },
            others: part.others + others,
        })
    }

    /// The adapter that makes the model of the examples that are left.
    ///
    /// # Errors
    /// When `prior` is not the one that the model was made with.
    pub fn adapter(
        &self,
        prior: Option<Prior>,
        train: &Dataset,
        engine: impl Into<Engine>,
    ) -> Result<Adapter> {
        let engine = engine.into();
        let found = prior.as_ref().map(Prior::fingerprint).transpose()?;
        if found != self.record.prior {
            return Err(other_prior(found.is_some(), self.record.prior.is_some()));
        }
        let Record { recipe, .. } = &self.record;
        let preprocess = match &recipe.input {
            Some(input) => input.resolve(&self.model, train, engine.threads())?,
            None => self.preprocess.clone(),
        };
        let Settings { steps, batch_size, .. } = self.settings;
        let steps = recipe.steps(steps, train.len(), batch_size);
        let mut adapter = Adapter::new(Arc::clone(&self.model), preprocess, engine);
        if let Some(prior) = prior {
            adapter = adapter.with_prior(prior)?;
        }
        let adapter = adapter.with_settings(Settings { steps, ..self.settings.clone() })?;
        Ok(adapter.with_recipe(recipe.clone()))
    }

    /// Examples as the model's task has them; names are the data's own.
    fn read(&self, data: &Dataset) -> Result<Dataset> {
        let data = data.read_as(self.task.target_kind())?;
        match &self.task {
            Task::Segmentation { ignore, .. } if data.ignored() != Some(*ignore) => {
                data.with_ignored(*ignore)
            }
            _ => Ok(data),
        }
    }
}

/// What leaves a set of examples.
struct Gone<'a> {
    hashes: BTreeSet<&'a str>,
    images: HashSet<&'a str>,
    missing: bool,
}

/// A set of examples without what leaves it.
struct Part {
    /// Places in the data, in the order of the record.
    kept: Vec<usize>,
    forgotten: Vec<String>,
    others: usize,
}

impl Gone<'_> {
    /// Finds the examples of a record in the data, and leaves those out that are to go.
    fn leave(&self, record: &[String], identities: &[Identity]) -> Result<Part> {
        let mut places: HashMap<&str, VecDeque<usize>> = HashMap::new();
        for (at, identity) in identities.iter().enumerate() {
            places.entry(&identity.example).or_default().push_back(at);
        }
        let mut part = Part { kept: Vec::new(), forgotten: Vec::new(), others: 0 };
        let (mut found, mut lacking) = (0, 0);
        for hash in record {
            let place = places.get_mut(hash.as_str()).and_then(VecDeque::pop_front);
            found += usize::from(place.is_some());
            let is_image = |at: usize| self.images.contains(identities[at].image.as_str());
            match place {
                _ if self.hashes.contains(hash.as_str()) || place.is_some_and(is_image) => {
                    part.forgotten.push(hash.clone());
                }
                Some(at) => part.kept.push(at),
                None if self.missing => part.forgotten.push(hash.clone()),
                None => lacking += 1,
            }
        }
        part.others = identities.len() - found;
        match lacking {
            0 => Ok(part),
            _ => Err(Error::mismatch(format!(
                "{lacking} of the {} examples that the model was made from are not among these",
                record.len()
            ))
            .hint(
                "images or targets have changed, or files are gone: give the data as they were, \
                 or forget what is not there, too, with --missing",
            )),
        }
    }
}

/// The images of the examples at `indices`.
fn images_at<'a>(identities: &'a [Identity], indices: &[usize]) -> Result<HashSet<&'a str>> {
    let image = |&index: &usize| {
        let identity = identities.get(index).ok_or_else(|| {
            let message = format!("there is no example {index} among {}", identities.len());
            Error::invalid(message).hint("examples are counted from 0")
        });
        identity.map(|identity| identity.image.as_str())
    };
    indices.iter().map(image).collect()
}

/// The recorded hashes that the given texts are the beginning of.
fn resolve<'a>(given: &[String], known: &BTreeSet<&'a str>) -> Result<BTreeSet<&'a str>> {
    let mut found = BTreeSet::new();
    for text in given {
        let digits = text.to_ascii_lowercase();
        if digits.len() < DIGITS_MIN || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            let message = format!("{text:?} is no hash of an example");
            let hint = format!("expected {DIGITS_MIN} to 64 hexadecimal digits");
            return Err(Error::invalid(message).hint(hint));
        }
        let mut matching = known.iter().filter(|hash| hash.starts_with(&digits));
        match (matching.next(), matching.next()) {
            (Some(hash), None) => found.insert(*hash),
            (None, _) => {
                return Err(Error::invalid(format!("no example of the model has the hash {text}"))
                    .hint("it was never there, or has been forgotten already"));
            }
            (Some(_), Some(_)) => {
                return Err(Error::invalid(format!("several hashes begin with {text}"))
                    .hint("give more of its digits"));
            }
        };
    }
    Ok(found)
}

#[cold]
fn nothing_left() -> Error {
    Error::invalid("nothing would be left to learn from")
        .hint("to be rid of the whole model, use --drop")
}

#[cold]
fn other_validation(is_given: bool) -> Error {
    match is_given {
        true => {
            Error::invalid("the model was made without held-out examples").hint("leave --val out")
        }
        false => Error::invalid("the model was made with held-out examples beside it")
            .hint("give them with --val: what they measured is in the model"),
    }
}

#[cold]
fn other_prior(is_given: bool, is_recorded: bool) -> Error {
    match (is_given, is_recorded) {
        (true, true) => Error::mismatch("this is not the prior that the model was made with"),
        (true, false) => {
            Error::invalid("the model was made without a stored prior").hint("leave --prior out")
        }
        _ => Error::invalid("the model was made with a stored prior")
            .hint("give its file with --prior"),
    }
}
