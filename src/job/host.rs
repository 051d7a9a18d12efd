//! What a host tells of its machine, and what a job makes of it.

use std::time::Duration;

use serde::Serialize;

use super::budget::Budget;

/// Reports how the machine is. It is asked several times a second, on a thread of its own: a call
/// that takes long, or never returns, leaves the job with what it was told last.
pub trait Host: Send + Sync {
    /// What is known now.
    fn conditions(&self) -> Conditions;
}

impl<F: Fn() -> Conditions + Send + Sync> Host for F {
    fn conditions(&self) -> Conditions {
        self()
    }
}

/// The state of a machine, as far as its host knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Conditions {
    /// What feeds it.
    pub power: Option<Power>,
    /// How hot it is.
    pub heat: Option<Heat>,
    /// Whether nobody is using it.
    pub idle: Option<bool>,
    /// How long the host takes for what it draws.
    pub frame: Option<Frame>,
}

/// What feeds a machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Power {
    /// The mains.
    Mains,
    /// Its battery, with this share of its charge left, 0 to 1.
    Battery(f32),
}

/// How hot a machine is, in the four levels that operating systems tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heat {
    /// As it should be.
    Nominal,
    /// Warm; fans may be heard.
    Fair,
    /// Its speed suffers.
    Serious,
    /// It must cool down.
    Critical,
}

/// How long one of the host's frames took, and how long it may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frame {
    /// The last ones, about.
    pub took: Duration,
    /// What the host aims at.
    pub target: Duration,
}

/// Why a job makes no steps for the time being.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// The caller paused it.
    Paused,
    /// Little is left of the battery's charge.
    Battery,
    /// The machine must cool down.
    Heat,
}

/// Below this charge a job waits for the mains.
const CHARGE_MIN: f32 = 0.2;
/// The share of the duty cycle that is left on a battery.
const ON_BATTERY: f32 = 0.5;
/// The same of a machine whose speed suffers from its heat.
const WHEN_HOT: f32 = 0.25;
/// A duty cycle never falls below this: a job that does not get on would never let go.
const SHARE_MIN: f32 = 0.02;

/// The share of the time that a job may compute, or why it must wait. Where nobody uses the machine
/// the duty cycle does not count; battery, heat and late frames make it shorter.
pub(super) fn share(conditions: &Conditions, budget: &Budget) -> Result<f32, Hold> {
    let Conditions { power, heat, idle, frame } = *conditions;
    let mut share = if idle == Some(true) { 1.0 } else { budget.duty_cycle };
    match power {
        Some(Power::Battery(charge)) if charge < CHARGE_MIN => return Err(Hold::Battery),
        Some(Power::Battery(_)) => share *= ON_BATTERY,
        Some(Power::Mains) | None => {}
    }
    match heat {
        Some(Heat::Critical) => return Err(Hold::Heat),
        Some(Heat::Serious) => share *= WHEN_HOT,
        Some(Heat::Nominal | Heat::Fair) | None => {}
    }
    if let Some(Frame { took, target }) = frame
        && took > target
    {
        // A frame of twice its time leaves a quarter, so that the host soon has its rate again.
        let late = target.as_secs_f32() / took.as_secs_f32();
        share *= late * late;
    }
    Ok(share.max(SHARE_MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_shorten_the_duty_cycle_or_stop_the_job() {
        let budget = Budget { duty_cycle: 0.8, ..Budget::default() };
        let none = Conditions::default();
        let power = |power| Conditions { power: Some(power), ..none };
        let heat = |heat| Conditions { heat: Some(heat), ..none };
        let millis = Duration::from_millis;
        let frame = |took, target| Conditions {
            frame: Some(Frame { took: millis(took), target: millis(target) }),
            ..none
        };
        for (conditions, expected) in [
            (none, Ok(0.8)),
            (Conditions { idle: Some(true), ..none }, Ok(1.0)),
            (Conditions { idle: Some(false), ..none }, Ok(0.8)),
            (power(Power::Mains), Ok(0.8)),
            (power(Power::Battery(0.9)), Ok(0.4)),
            (power(Power::Battery(0.1)), Err(Hold::Battery)),
            (heat(Heat::Fair), Ok(0.8)),
            (heat(Heat::Serious), Ok(0.2)),
            (heat(Heat::Critical), Err(Hold::Heat)),
            (frame(16, 16), Ok(0.8)),
            (frame(32, 16), Ok(0.2)),
            (frame(10_000, 1), Ok(SHARE_MIN)),
            (frame(1, 0), Ok(SHARE_MIN)),
        ] {
            assert_eq!(share(&conditions, &budget), expected, "{conditions:?}");
        }
    }
}
