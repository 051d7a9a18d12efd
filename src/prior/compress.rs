//! Fewer deviations that explain most of what many do.

use ndarray::Array2;

use super::blocks::Block;
use super::density::rows;
use super::derive::add_note;
use super::eigen;
use super::{Header, Parameter, Prior, deviations_shape, elements};
use crate::error::{Error, Result};
use crate::tensor::tensor;

/// Checks a share of variance to be explained.
///
/// # Errors
/// When it is not above 0 and at most 1.
pub fn check_share(share: f64) -> Result<()> {
    match share > 0.0 && share <= 1.0 {
        true => Ok(()),
        false => Err(Error::invalid(format!("the share of variance to explain is {share}"))
            .hint("expected a number above 0 and at most 1, such as 0.9")),
    }
}

impl Prior {
    /// The prior with the fewest deviations, but two, that explain at least this share of the
    /// low-rank variance tr(W Wᵀ), in each block of its own: the leading principal directions of
    /// the deviations, which are orthogonal. Every weight keeps its variance: what the dropped
    /// directions gave it goes to v, so that `share` → 0 tends to [`Prior::diagonal`] and 1 changes
    /// the deviations' basis only.
    ///
    /// The principal directions are Uᵀ Q for the eigenvectors U of Q Qᵀ, a K×K matrix.
    ///
    /// # Errors
    /// When the share is not above 0 and at most 1, or a number does not fit `f32`.
    pub fn compress(&self, share: f64) -> Result<Self> {
        check_share(share)?;
        self.along(|directions| {
            let all = directions.variances.len();
            let wanted = share * directions.explained(all);
            // Rounding may leave the sum of all below the total.
            let enough = |&kept: &usize| directions.explained(kept) >= wanted;
            (2..all).find(enough).unwrap_or(all)
        })
    }

    /// The same with the `rank` leading directions of its deviations, or two, or all there are.
    pub(super) fn truncate(&self, rank: usize) -> Result<Self> {
        self.along(|directions| rank.max(2).min(directions.variances.len()))
    }

    fn directions(&self, block: &Block) -> Result<Directions> {
        let (rank, failed) = (block.rank, || Error::internal("K finite deviations have products"));
        let gram = Array2::from_shape_vec((rank, rank), self.gram(block, |_| 1.0));
        let gram = gram.map_err(|_| failed())?;
        let (variances, vectors) = eigen::largest_first(gram).ok_or_else(failed)?;
        Ok(Directions { variances, vectors })
    }

    /// The prior with deviations along so many of the leading directions of each block.
    fn along(&self, choose: impl Fn(&Directions) -> usize) -> Result<Self> {
        if self.rank() == 0 {
            return Ok(self.clone());
        }
        let (mut parameters, mut counts) = (Vec::with_capacity(self.parameters.len()), Vec::new());
        let (mut explained, mut total) = (0.0, 0.0);
        for block in &self.blocks {
            let directions = self.directions(block)?;
            let kept = choose(&directions);
            explained += directions.explained(kept);
            total += directions.explained(block.rank);
            // The divisor K - 1 of the covariance is that of the number of rows.
            let scale = ((kept as f64 - 1.0) / (block.rank as f64 - 1.0)).sqrt();
            for parameter in self.members(block) {
                parameters.push(rotated(parameter, &directions.vectors, kept, scale)?);
            }
            counts.push(kept);
        }
        let (fewest, most) = counts.iter().fold((usize::MAX, 0), |(a, b), &k| (a.min(k), b.max(k)));
        let mut header = Header { rank: most, ..self.header.clone() };
        let kept = if fewest == most { most.to_string() } else { format!("{fewest} to {most}") };
        let part = if total > 0.0 { 100.0 * explained / total } else { 100.0 };
        let rank = self.rank();
        let note = format!("{kept} of {rank} principal directions, {part:.1} % of their variance");
        add_note(&mut header, &note);
        Prior::new(header, parameters)
    }
}

/// The principal directions of deviations, the one of the largest variance first.
struct Directions {
    variances: Vec<f64>,
    /// Coefficients of the deviations, a row for each.
    vectors: Array2<f64>,
}

impl Directions {
    /// The variance along the first `kept`.
    fn explained(&self, kept: usize) -> f64 {
        self.variances[..kept].iter().map(|e| e.max(0.0)).sum()
    }
}

/// The parameter with its deviations along the first `kept` of `vectors`, times `scale`, and the
/// variance along the others in v.
fn rotated(
    parameter: &Parameter,
    vectors: &Array2<f64>,
    kept: usize,
    scale: f64,
) -> Result<Parameter> {
    let len = parameter.mean.len();
    let divisor = vectors.nrows() as f64 - 1.0;
    let mut var: Vec<f64> = elements(&parameter.var).iter().map(|&v| f64::from(v)).collect();
    let mut dev = Vec::with_capacity(kept * len);
    for (number, vector) in vectors.rows().into_iter().enumerate() {
        let mut row = vec![0.0; len];
        for (&weight, deviation) in vector.iter().zip(rows(parameter)) {
            row.iter_mut().zip(deviation).for_each(|(x, &q)| *x += weight * f64::from(q));
        }
        if number < kept {
            dev.extend(row.iter().map(|x| (scale * x) as f32));
        } else {
            var.iter_mut().zip(&row).for_each(|(v, x)| *v += x * x / divisor);
        }
    }
    let shape = parameter.shape();
    let var = tensor(&shape, var.into_iter().map(|v| v as f32).collect())?;
    let dev = tensor(&deviations_shape(kept, &shape), dev)?;
    Ok(Parameter::new(&parameter.name, parameter.mean.clone(), var, Some(dev)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prior::tests::{F32, close, weights};
    use crate::prior::{Moments, Weights};
    use crate::rng::{Key, Stream};

    /// Snapshots of twelve weights that vary along two directions much more than along others.
    fn prior() -> Prior {
        let mut normals = Key::new(4, Stream::Probe).at(0);
        let mut normal = || normals.normal();
        let axes: Vec<Vec<f32>> = (0..2).map(|_| (0..12).map(|_| normal()).collect()).collect();
        let mut moments = Moments::new(8).expect("a rank");
        for _ in 0..20 {
            let (a, b) = (normal(), 0.5 * normal());
            let at = |i: usize| a * axes[0][i] + b * axes[1][i];
            let w: Vec<f32> = (0..12).map(|i| at(i) + 0.02 * normal()).collect();
            moments.collect(&weights(&[("a", &w[..5]), ("b", &w[5..])])).expect("fits");
        }
        moments.finish(Header::new(crate::prior::tests::BACKBONE, 1e-6)).expect("a prior")
    }

    fn somewhere(prior: &Prior, draw: u64) -> Weights {
        prior.sample(&Key::new(9, Stream::Draw), draw, 1.0).expect("a draw")
    }

    /// T4: a rotation of the deviations changes nothing.
    #[test]
    fn all_directions_give_the_same_gaussian() {
        let prior = prior();
        let rotated = prior.compress(1.0).expect("a prior");
        assert_eq!(rotated.rank(), prior.rank());
        close(rotated.logdet(1.0).expect("ok"), prior.logdet(1.0).expect("ok"), 1e-5);
        for draw in 0..3 {
            let theta = somewhere(&prior, draw);
            let [a, b] = [&rotated, &prior].map(|p| p.quadratic(&theta, 1.0).expect("ok"));
            close(a, b, 1e-4);
        }
        let gram = rotated.gram(&rotated.blocks[0], |_| 1.0);
        for row in 0..rotated.rank() {
            for column in 0..row {
                let off = gram[row * rotated.rank() + column].abs();
                assert!(off < 1e-6 * gram[0], "directions {row} and {column}: {off}");
            }
        }
    }

    #[test]
    fn the_leading_directions_are_kept_and_every_variance() {
        let prior = prior();
        let few = prior.compress(0.95).expect("a prior");
        assert_eq!(few.rank(), 2, "two directions explain almost all");
        let [a, b] = [&few, &prior].map(|p| p.diagonal().expect("a prior"));
        for (a, b) in a.parameters().iter().zip(b.parameters()) {
            for (&a, &b) in a.var().iter().zip(b.var()) {
                close(f64::from(a), f64::from(b), 10.0 * F32);
            }
        }
        let notes = &few.header().notes;
        assert!(notes.contains("2 of 8 principal directions, "), "{notes}");
        // What is kept is what was there: the loose directions stay loose.
        let share = few.stats().overall.low_rank_share / prior.stats().overall.low_rank_share;
        assert!(share > 0.95 && share <= 1.0 + F32, "{share}");
    }

    #[test]
    fn shares_out_of_range_are_refused_and_diagonal_priors_stay() {
        for share in [0.0, -1.0, 1.5, f64::NAN] {
            let error = prior().compress(share).expect_err("no share").to_string();
            assert!(error.contains("share of variance to explain is"), "{error}");
        }
        let diagonal = prior().diagonal().expect("a prior");
        assert_eq!(diagonal.compress(0.5).expect("a prior").rank(), 0);
    }
}
