//! Options of an adaptation as JSON: what a host does not say keeps its default.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::adapt::{InputSettings, PriorKind, Settings};
use crate::error::{Error, Result};
use crate::job::{Budget, Priority};

/// What a host says, and else the defaults.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Options {
    /// Those of [`Settings`] that differ from the defaults.
    settings: Map<String, Value>,
    /// How images become the network's input.
    pub(super) input: InputSettings,
    /// What the job may take.
    budget: Limits,
    /// The value or node of the file that holds the features.
    pub(super) features: Option<String>,
}

/// A [`Budget`].
#[derive(Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct Limits {
    threads: Option<usize>,
    memory: Option<u64>,
    duty_cycle: f32,
    seconds: Option<f64>,
    low_priority: bool,
}

impl Default for Limits {
    fn default() -> Self {
        let Budget { threads, memory, duty_cycle, wall_time, priority } = Budget::default();
        let seconds = wall_time.map(|time| time.as_secs_f64());
        let low_priority = priority == Priority::Low;
        Limits { threads, memory, duty_cycle, seconds, low_priority }
    }
}

impl Options {
    /// Reads options; none are all defaults.
    ///
    /// # Errors
    /// When the text is not JSON, or names what is no option.
    pub(super) fn parse(text: Option<&str>) -> Result<Self> {
        let Some(text) = text else { return Ok(Options::default()) };
        // An array would do for a structure otherwise.
        let options: Map<String, Value> = serde_json::from_str(text).map_err(invalid)?;
        serde_json::from_value(Value::Object(options)).map_err(invalid)
    }

    /// The settings. Without a stored prior, and unless another is asked for, weights are pulled to
    /// where they start.
    ///
    /// # Errors
    /// When one is no setting, or not of its type.
    pub(super) fn settings(&self, has_prior: bool) -> Result<Settings> {
        let prior = if has_prior { PriorKind::Learned } else { PriorKind::Isotropic };
        let settings = Settings { prior, ..Settings::default() };
        let mut merged = serde_json::to_value(settings).map_err(unwritable)?;
        merge(&mut merged, &self.settings);
        serde_json::from_value(merged).map_err(invalid)
    }

    /// The budget.
    ///
    /// # Errors
    /// When its time is not one.
    pub(super) fn budget(&self) -> Result<Budget> {
        let Limits { threads, memory, duty_cycle, seconds, low_priority } = self.budget;
        let time = |seconds| {
            Duration::try_from_secs_f64(seconds).map_err(|_| {
                Error::invalid(format!("the budget has {seconds} seconds; expected 0 or more"))
            })
        };
        let priority = if low_priority { Priority::Low } else { Priority::Ordinary };
        let wall_time = seconds.map(time).transpose()?;
        Ok(Budget { threads, memory, duty_cycle, wall_time, priority })
    }
}

/// All options with their defaults, as JSON.
pub(super) fn defaults() -> Result<String> {
    let defaults = serde_json::json!({
        "settings": Settings::default(),
        "input": InputSettings::default(),
        "budget": Limits::default(),
        "features": null,
    });
    serde_json::to_string_pretty(&defaults).map_err(unwritable)
}

/// Puts `changes` in the place of what is there, object by object. What is not there is added, for
/// the type to refuse by name.
fn merge(into: &mut Value, changes: &Map<String, Value>) {
    let Value::Object(into) = into else { return };
    for (name, change) in changes {
        match (into.get_mut(name), change) {
            (Some(old @ Value::Object(_)), Value::Object(change)) => merge(old, change),
            _ => {
                into.insert(name.clone(), change.clone());
            }
        }
    }
}

#[cold]
fn invalid(error: serde_json::Error) -> Error {
    Error::invalid(format!("the options: {error}"))
        .hint("priorfit_default_options shows all of them")
}

#[cold]
fn unwritable(error: serde_json::Error) -> Error {
    Error::internal("options are always JSON").caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::Optimizer;

    #[test]
    fn what_is_not_said_keeps_its_default() {
        let settings = |text: &str| Options::parse(Some(text)).and_then(|o| o.settings(true));
        let changed = settings(r#"{"settings": {"steps": 7, "posterior": {"kind": "swag"}}}"#);
        let changed = changed.expect("settings");
        assert_eq!(changed.steps, 7);
        let expected = crate::adapt::PosteriorKind::Swag;
        assert_eq!(changed.posterior, crate::adapt::PosteriorSettings::of(expected));
        let text = r#"{"settings": {"optimizer": {"method": "sgd", "momentum": 0.5}}}"#;
        let changed = settings(text).expect("settings");
        assert_eq!(changed.optimizer, Optimizer::Sgd { momentum: 0.5 });
        assert_eq!(Settings { optimizer: Optimizer::default(), ..changed }, Settings::default());
        let none = Options::parse(None).expect("defaults");
        assert_eq!(none.settings(true).expect("settings"), Settings::default());
        assert_eq!(none.settings(false).expect("settings").prior, PriorKind::Isotropic);
        assert_eq!(none.budget().expect("a budget"), Budget::default());
    }

    #[test]
    fn the_defaults_are_options() {
        let options = Options::parse(Some(&defaults().expect("JSON"))).expect("options");
        assert_eq!(options.settings(true).expect("settings"), Settings::default());
        assert_eq!(options.budget().expect("a budget"), Budget::default());
        assert_eq!(options.input, InputSettings::default());
    }

    #[test]
    fn what_is_no_option_is_named() {
        for (text, named) in [
            ("", "EOF"),
            ("[]", "expected a map"),
            (r#"{"setting": {}}"#, "`setting`"),
            (r#"{"settings": {"step": 1}}"#, "`step`"),
            (r#"{"settings": {"steps": "many"}}"#, "many"),
            (r#"{"settings": {"posterior": {"kinds": 1}}}"#, "`kinds`"),
            (r#"{"input": {"size": [1]}}"#, "length"),
            (r#"{"budget": {"seconds": -1}}"#, "-1 seconds"),
        ] {
            let error = Options::parse(Some(text))
                .and_then(|options| options.settings(true).and(options.budget()))
                .expect_err(text);
            assert!(error.to_string().contains(named), "{text}: {error}");
        }
    }
}
