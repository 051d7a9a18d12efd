//! How the host's machine is, and the user's will against it.

use std::mem::MaybeUninit;
use std::time::Duration;

use super::adaptation::{JobHandle, handle_of};
use super::error::{ErrorHandle, Failure, Status};
use super::guard::answer;
use crate::job::{Conditions, Frame, Heat, Power};

/// What feeds a machine.
#[repr(u32)]
pub enum PowerSource {
    /// The host does not know.
    Unknown = 0,
    /// The mains.
    Mains = 1,
    /// Its battery.
    Battery = 2,
}

/// How hot a machine is, in the four levels that operating systems tell.
#[repr(u32)]
pub enum HeatLevel {
    /// The host does not know.
    Unknown = 0,
    /// As it should be.
    Nominal = 1,
    /// Warm; fans may be heard.
    Fair = 2,
    /// Its speed suffers.
    Serious = 3,
    /// It must cool down.
    Critical = 4,
}

/// Whether anybody is using a machine.
#[repr(u32)]
pub enum Presence {
    /// The host does not know.
    Unknown = 0,
    /// Somebody is.
    Used = 1,
    /// Nobody is.
    Idle = 2,
}

/// The state of a machine, as far as its host knows it; all zeros say that nothing is known.
#[repr(C)]
pub struct ConditionsReport {
    /// One of priorfit_power.
    pub power: u32,
    /// The share of the battery's charge that is left, 0 to 1. Of other power it says nothing.
    pub charge: f32,
    /// One of priorfit_heat.
    pub heat: u32,
    /// One of priorfit_presence.
    pub presence: u32,
    /// Seconds that the host's last frames took, about.
    pub frame_seconds: f32,
    /// Seconds that a frame may take; 0 where the host draws none.
    pub frame_target: f32,
}

/// Tells a job how the machine is now, in place of what it was told before; it counts from the next
/// step on. On a battery, in heat and while frames are late the job computes less; with little
/// charge, or where the machine must cool down, it is held. Where nobody uses the machine the duty
/// cycle of its budget does not count. Nothing is asked of the host: it tells when it learns
/// something, from any thread. Never waits.
#[unsafe(no_mangle)]
pub extern "C" fn priorfit_job_set_conditions(
    job: *const JobHandle,
    conditions: Option<&ConditionsReport>,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    answer(error, || {
        let handle = handle_of(job)?;
        let conditions = conditions.ok_or_else(|| Failure::null("conditions"))?;
        handle.set_conditions(conditions.read()?);
        Ok(())
    })
}

/// The user's own will: whether a job goes on at full speed whatever the conditions and its duty
/// cycle say. A pause still holds it. Never waits.
#[unsafe(no_mangle)]
pub extern "C" fn priorfit_job_run_regardless(
    job: *const JobHandle,
    regardless: bool,
    error: Option<&mut MaybeUninit<*mut ErrorHandle>>,
) -> Status {
    answer(error, || {
        handle_of(job)?.run_regardless(regardless);
        Ok(())
    })
}

impl ConditionsReport {
    fn read(&self) -> Result<Conditions, Failure> {
        let power = match self.power {
            power if power == PowerSource::Unknown as u32 => None,
            power if power == PowerSource::Mains as u32 => Some(Power::Mains),
            power if power == PowerSource::Battery as u32 => Some(Power::Battery(self.charge()?)),
            other => return Err(unknown("power", other)),
        };
        let heat = match self.heat {
            heat if heat == HeatLevel::Unknown as u32 => None,
            heat if heat == HeatLevel::Nominal as u32 => Some(Heat::Nominal),
            heat if heat == HeatLevel::Fair as u32 => Some(Heat::Fair),
            heat if heat == HeatLevel::Serious as u32 => Some(Heat::Serious),
            heat if heat == HeatLevel::Critical as u32 => Some(Heat::Critical),
            other => return Err(unknown("heat", other)),
        };
        let idle = match self.presence {
            presence if presence == Presence::Unknown as u32 => None,
            presence if presence == Presence::Used as u32 => Some(false),
            presence if presence == Presence::Idle as u32 => Some(true),
            other => return Err(unknown("presence", other)),
        };
        Ok(Conditions { power, heat, idle, frame: self.frame()? })
    }

    fn charge(&self) -> Result<f32, Failure> {
        match self.charge {
            charge if (0.0..=1.0).contains(&charge) => Ok(charge),
            charge => Err(wrong(format!("`charge` is {charge}; expected a share, 0 to 1"))),
        }
    }

    fn frame(&self) -> Result<Option<Frame>, Failure> {
        let time = |name: &str, seconds: f32| {
            Duration::try_from_secs_f32(seconds)
                .map_err(|_| wrong(format!("`{name}` is {seconds}; expected seconds, 0 or more")))
        };
        let took = time("frame_seconds", self.frame_seconds)?;
        let target = time("frame_target", self.frame_target)?;
        Ok((!target.is_zero()).then_some(Frame { took, target }))
    }
}

#[cold]
fn unknown(what: &str, number: u32) -> Failure {
    wrong(format!("`{what}` is {number}, which the header does not know"))
}

#[cold]
fn wrong(message: String) -> Failure {
    Failure::new(Status::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: ConditionsReport = ConditionsReport {
        power: 0,
        charge: 0.0,
        heat: 0,
        presence: 0,
        frame_seconds: 0.0,
        frame_target: 0.0,
    };

    #[test]
    fn what_c_says_is_what_rust_would() {
        let read = |report: &ConditionsReport| report.read().ok();
        assert_eq!(read(&NOTHING), Some(Conditions::default()));
        let all = ConditionsReport {
            power: PowerSource::Battery as u32,
            charge: 0.5,
            heat: HeatLevel::Serious as u32,
            presence: Presence::Idle as u32,
            frame_seconds: 0.25,
            frame_target: 0.125,
        };
        let millis = Duration::from_millis;
        let expected = Conditions {
            power: Some(Power::Battery(0.5)),
            heat: Some(Heat::Serious),
            idle: Some(true),
            frame: Some(Frame { took: millis(250), target: millis(125) }),
        };
        assert_eq!(read(&all), Some(expected));
        for wrong in [
            ConditionsReport { power: 3, ..NOTHING },
            ConditionsReport { power: 2, charge: f32::NAN, ..NOTHING },
            ConditionsReport { power: 2, charge: 55.0, ..NOTHING },
            ConditionsReport { heat: 5, ..NOTHING },
            ConditionsReport { presence: 9, ..NOTHING },
            ConditionsReport { frame_seconds: -1.0, ..NOTHING },
            ConditionsReport { frame_target: f32::INFINITY, ..NOTHING },
        ] {
            assert!(read(&wrong).is_none());
        }
    }
}
