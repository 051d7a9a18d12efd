//! Deep ensembles: the MAP several times (Lakshminarayanan et al. 2017). Members differ in the
//! order and augmentation of the examples and in the head that they start from.

use super::{Approximation, Drawn, Outcome, PosteriorSettings, Sampling};
use crate::adapt::Ending;
use crate::error::Result;
use crate::prior::Weights;
use crate::rng::{Key, Stream};
use crate::task::{HEAD_BIAS, HEAD_WEIGHT};
use crate::tensor::{Tensor, contiguous, tensor};

pub(super) struct Ensemble {
    pub(super) settings: PosteriorSettings,
}

impl Approximation for Ensemble {
    fn draw(&self, run: &mut Sampling<'_, '_>) -> Result<Drawn> {
        let members = self.settings.draws();
        let key = Key::new(run.settings.seed, Stream::Init);
        let mut draws = Vec::new();
        for number in 0..members {
            let start = shaken(run.start, &key, number)?;
            match run.mode(number, &start)? {
                Outcome::Diverged(error) => return Ok(Drawn::diverged(draws, run.start, error)),
                Outcome::Ended(Ending::Completed, end) => draws.push(end),
                Outcome::Ended(ending, end) => {
                    // A member that was cut short is worse than none.
                    if draws.is_empty() {
                        draws.push(end);
                    }
                    return Ok(Drawn::new(draws, ending));
                }
            }
        }
        Ok(Drawn::new(draws, Ending::Completed))
    }
}

/// The weights with noise in the head, as large as the head's own weights; the first member has
/// none.
fn shaken(start: &Weights, key: &Key, number: usize) -> Result<Weights> {
    let mut weights = start.clone();
    if number == 0 {
        return Ok(weights);
    }
    let mut normals = key.at(number as u64);
    for name in [HEAD_WEIGHT, HEAD_BIAS] {
        if let Some(weight) = weights.get_mut(name) {
            let size = root_mean_square(weight);
            let shaken = contiguous(weight).iter().map(|x| x + size * normals.normal()).collect();
            *weight = tensor(weight.shape(), shaken)?;
        }
    }
    Ok(weights)
}

fn root_mean_square(x: &Tensor) -> f32 {
    let sum: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum();
    (sum / x.len().max(1) as f64).sqrt() as f32
}
