//! Every approximation of the posterior from end to end, on the bundled backbone and digits.

use std::collections::BTreeSet;
use std::sync::Arc;

use ndarray::{Array2, Array4};
use priorfit::adapt::{
    Adapted, Adapter, Control, Ending, PosteriorKind, PosteriorSettings, PriorKind, Settings,
};
use priorfit::adapt::{Phase, Progress};
use priorfit::data::Dataset;
use priorfit::error::Result;
use priorfit::onnx::Model;
use priorfit::posterior::{FORWARD_BATCH, Posterior};
use priorfit::prior::{Prior, Weights};
use priorfit::task::{HEAD_BIAS, HEAD_WEIGHT};
use priorfit::tensor::contiguous;

use crate::adapt::{Fixture, fixture, input};
use crate::support::repository;

pub const KINDS: [PosteriorKind; 6] = [
    PosteriorKind::Map,
    PosteriorKind::Sgld,
    PosteriorKind::Sghmc,
    PosteriorKind::Swag,
    PosteriorKind::Laplace,
    PosteriorKind::Ensemble,
];

/// Settings of an approximation with this many draws, short, without clipping, and cold: fifty
/// examples leave a posterior so wide that few draws of it predict badly.
fn settings(kind: PosteriorKind, draws: usize) -> Settings {
    let draws = Some(if kind == PosteriorKind::Map { 1 } else { draws });
    let has_temperature = !matches!(kind, PosteriorKind::Map | PosteriorKind::Ensemble);
    Settings {
        prior: PriorKind::Isotropic,
        posterior: PosteriorSettings {
            draws,
            temperature: has_temperature.then_some(0.01),
            ..PosteriorSettings::of(kind)
        },
        clip: None,
        steps: 24,
        batch_size: 10,
        ..Settings::fixed()
    }
}

impl Fixture {
    fn try_fit(
        &self,
        train: &Dataset,
        settings: Settings,
        observe: &mut dyn FnMut(Progress) -> Control,
    ) -> Result<Adapted> {
        let threads = Arc::clone(&self.threads);
        let adapter = Adapter::new(Arc::clone(&self.model), input(), threads);
        adapter.with_settings(settings)?.fit(train, None, observe)
    }
}

fn bits(weights: &Weights) -> Vec<u32> {
    weights.values().flat_map(|w| contiguous(w).to_vec()).map(f32::to_bits).collect()
}

#[test]
fn every_kind_makes_its_draws_and_predicts_with_their_average() {
    let fixture = fixture();
    let (train, rest) = fixture.few(5);
    for kind in KINDS {
        let adapted = fixture.fit(&train, settings(kind, 4));
        assert_eq!((adapted.ending, &adapted.notice), (Ending::Completed, &None), "{kind:?}");
        let draws = adapted.posterior.draws();
        let different: BTreeSet<Vec<u32>> = draws.iter().map(bits).collect();
        let wanted = if kind == PosteriorKind::Map { 1 } else { 4 };
        assert_eq!((draws.len(), different.len()), (wanted, wanted), "{kind:?}");
        let accuracy = fixture.accuracy(&adapted.posterior, &rest);
        assert!(accuracy > 0.85, "{kind:?}: {accuracy}");
        let same_bits = fixture.fit(&train, settings(kind, 4)).posterior;
        assert!(draws.iter().zip(same_bits.draws()).all(|(a, b)| a == b), "{kind:?} repeats");
        let other = Settings { seed: 9, ..settings(kind, 4) };
        assert!(bits(&fixture.fit(&train, other).posterior.draws()[0]) != bits(&draws[0]));
    }
}

#[test]
fn laplace_draws_share_everything_but_the_head() {
    let fixture = fixture();
    let (train, _) = fixture.few(3);
    let map = fixture.fit(&train, settings(PosteriorKind::Map, 1)).posterior;
    let laplace = fixture.fit(&train, settings(PosteriorKind::Laplace, 3)).posterior;
    for draw in laplace.draws() {
        for (name, weight) in draw {
            let is_head = [HEAD_WEIGHT, HEAD_BIAS].contains(&name.as_str());
            assert_eq!(map.draws()[0][name] == *weight, !is_head, "{name}");
            let shared = weight.as_ptr() == laplace.draws()[0][name].as_ptr();
            assert!(shared || is_head, "{name} is stored once");
        }
    }
}

/// Heads on the same features are averaged from one pass over the images, and from a file too.
#[test]
fn draws_that_share_their_features_take_one_pass() {
    // Sums of products in another order, and their softmax.
    const ROUNDING: f64 = 1e-5;
    let fixture = fixture();
    let (train, rest) = fixture.few(3);
    let posterior = fixture.fit(&train, settings(PosteriorKind::Laplace, 3)).posterior;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("adapted");
    posterior.save(&path).expect("saved");
    let (passes, opened) = (rest.len().div_ceil(FORWARD_BATCH), Posterior::load(&path));
    let mut apart = Array2::<f64>::zeros((rest.len(), 10));
    for draw in posterior.draws() {
        let (description, model) = (posterior.description().clone(), Arc::clone(&fixture.model));
        let alone = Posterior::new(description, model, vec![draw.clone()]).expect("a draw");
        apart += &alone.predict(&rest, &fixture.threads, &mut |_| true).expect("predicted");
    }
    for shared in [&posterior, &opened.expect("a posterior")] {
        let mut seen = Vec::new();
        let p = shared.predict(&rest, &fixture.threads, &mut |p| {
            seen.push((p.done, p.total));
            true
        });
        let off = p.expect("predicted") - &apart / 3.0;
        assert!(off.iter().all(|x| x.abs() < ROUNDING));
        assert_eq!(seen.len(), passes);
        assert_eq!(seen.last(), Some(&(3 * rest.len(), 3 * rest.len())));
    }
}

#[test]
fn without_temperature_draws_do_not_spread() {
    let fixture = fixture();
    let (train, _) = fixture.few(3);
    let at = |kind, temperature| {
        let mut settings = settings(kind, 3);
        settings.posterior.temperature = Some(temperature);
        fixture.fit(&train, settings).posterior
    };
    let cold = |kind| at(kind, 0.0);
    let map = fixture.fit(&train, settings(PosteriorKind::Map, 1)).posterior;
    for draw in cold(PosteriorKind::Laplace).draws() {
        assert!(*draw == map.draws()[0], "the MAP");
    }
    let swag = cold(PosteriorKind::Swag);
    assert!(swag.draws().iter().all(|draw| *draw == swag.draws()[0]), "the mean");
    for kind in [PosteriorKind::Sgld, PosteriorKind::Sghmc] {
        // Where noise would act at all its spread is far above what a descent moves at its end.
        let spread = |posterior: &Posterior| {
            let [.., before, last] = posterior.draws() else { panic!("three draws") };
            before[HEAD_WEIGHT]
                .iter()
                .zip(&last[HEAD_WEIGHT])
                .fold(0.0f32, |most, (a, b)| most.max((a - b).abs()))
        };
        let (cold, warm) = (spread(&cold(kind)), spread(&at(kind, 1.0)));
        assert!(cold < 0.2 * warm, "{kind:?}: {cold} and {warm}");
    }
}

/// The first quarter of a cycle is a descent: until its last step temperature changes nothing.
#[test]
fn a_cycle_begins_without_noise() {
    let fixture = fixture();
    let (train, _) = fixture.few(3);
    for kind in [PosteriorKind::Sgld, PosteriorKind::Sghmc] {
        for (cycles, quiet) in [(0, 6), (1, 6), (2, 3)] {
            let losses = |temperature| {
                let mut settings = settings(kind, 4);
                settings.posterior.cycles = cycles;
                settings.posterior.temperature = Some(temperature);
                let mut losses = Vec::new();
                let run = fixture.try_fit(&train, settings, &mut |progress| {
                    losses.extend(progress.loss.filter(|_| progress.phase == Phase::Train));
                    Control::Continue
                });
                run.expect("a chain");
                losses
            };
            let pairs: Vec<(f32, f32)> = losses(0.0).into_iter().zip(losses(1.0)).collect();
            // A step's loss is that before it.
            assert_eq!(pairs.iter().take_while(|(a, b)| a == b).count(), quiet + 1, "{kind:?}");
        }
    }
}

/// Bad luck with the data is no error: an example of each class, two examples in all, images
/// without any difference. One class alone is.
#[test]
fn every_kind_survives_degenerate_data() {
    let fixture = fixture();
    let (few, _) = fixture.few(1);
    let arrays = |x: Array4<f32>, labels: &[usize], classes: usize| {
        let names = ["a", "b", "c"][..classes].iter().map(|name| name.to_string()).collect();
        Dataset::from_arrays_f32(x.view(), Some(labels), names).expect("a data set")
    };
    let stripes = Array4::from_shape_fn((2, 1, 16, 16), |(n, _, y, _)| (y * (n + 1) % 3) as f32);
    let two = arrays(stripes.clone(), &[0, 1], 2);
    let grey = arrays(Array4::from_elem((6, 1, 16, 16), 0.5), &[0, 1, 2, 0, 1, 2], 3);
    let one_class = arrays(stripes, &[0, 0], 1);
    for kind in KINDS {
        for (scene, data) in [("one of each", &few), ("two", &two), ("grey", &grey)] {
            for draws in [1, 3] {
                let adapted = fixture.fit(data, settings(kind, draws));
                assert_eq!(adapted.ending, Ending::Completed, "{kind:?}, {scene}");
                let p = adapted.posterior.predict(data, &fixture.threads, &mut |_| true);
                let p = p.expect("predictions");
                assert!(p.iter().all(|p| p.is_finite()), "{kind:?}, {scene}");
            }
        }
        let refused = fixture.try_fit(&one_class, settings(kind, 1), &mut |_| Control::Continue);
        let error = refused.err().expect("one class").to_string();
        assert!(error.contains("at least two"), "{error}");
    }
}

#[test]
fn a_chain_that_diverges_keeps_what_was_good_and_says_what_to_change() {
    let fixture = fixture();
    let (train, rest) = fixture.few(3);
    for kind in [PosteriorKind::Sgld, PosteriorKind::Sghmc] {
        let mut hot = Settings { prior: PriorKind::None, ..settings(kind, 4) };
        hot.posterior.temperature = Some(1e20);
        let fast = Settings { prior: PriorKind::None, learning_rate: 1e20, ..settings(kind, 4) };
        for settings in [hot, fast] {
            let adapted = fixture.fit(&train, settings);
            assert_eq!(adapted.ending, Ending::Diverged);
            let notice = adapted.notice.expect("a reason");
            assert!(notice.contains("lower --lr") && notice.contains("kept"), "{notice}");
            assert!(fixture.accuracy(&adapted.posterior, &rest) > 0.7, "{kind:?}: the start");
        }
        // Noise far above the weights, and a loss that is a number all the same.
        let mut warm = Settings { prior: PriorKind::None, ..settings(kind, 4) };
        warm.posterior.temperature = Some(1e4);
        let notice = fixture.fit(&train, warm).notice.expect("a reason");
        let loss = notice.split("loss ").nth(1).and_then(|rest| rest.split(',').next());
        let loss: f32 = loss.and_then(|loss| loss.parse().ok()).expect("a loss");
        assert!(loss.is_finite() && loss > 10.0, "{notice}");
    }
}

#[test]
fn progress_counts_over_all_chains_and_a_stop_keeps_their_draws() {
    let fixture = fixture();
    let (train, _) = fixture.few(2);
    for kind in [PosteriorKind::Sghmc, PosteriorKind::Swag, PosteriorKind::Ensemble] {
        let mut settings = settings(kind, 6);
        let legs = match kind {
            PosteriorKind::Ensemble => 6,
            _ => 2,
        };
        settings.posterior.chains = if kind == PosteriorKind::Ensemble { 1 } else { 2 };
        let total = legs * settings.steps;
        let run = |last: usize| {
            let mut seen = Vec::new();
            let adapted = fixture.try_fit(&train, settings.clone(), &mut |progress| {
                if progress.phase == Phase::Train {
                    assert_eq!(progress.steps, total);
                    seen.push(progress.step);
                }
                if seen.len() == last { Control::Stop } else { Control::Continue }
            });
            (adapted.expect("a run"), seen)
        };
        let (whole, seen) = run(usize::MAX);
        assert!(seen.into_iter().eq(1..=total), "{kind:?}: each step once");
        assert_eq!(whole.history.last().expect("an epoch").chain, legs);
        // In the second leg.
        let (stopped, _) = run(settings.steps + 2);
        assert_eq!(stopped.ending, Ending::Stopped);
        let (kept, whole) = (stopped.posterior.draws(), whole.posterior.draws());
        assert!((1..whole.len()).contains(&kept.len()), "{kind:?}: {} draws", kept.len());
        assert!(kept.iter().zip(whole).all(|(a, b)| a == b), "{kind:?}: those of the first leg");
        // In the first leg, before there is a draw.
        let (stopped, _) = run(3);
        assert_eq!((stopped.ending, stopped.posterior.draws().len()), (Ending::Stopped, 1));
    }
}

/// Draws that a lost device took with it are made again bit for bit.
#[cfg(feature = "gpu")]
#[test]
fn draws_survive_the_loss_of_a_device() {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use priorfit::backend::Engine;
    use priorfit::threads::Threads;

    use crate::gpu::{destroy_last, early_layers, watched};
    use crate::support::gpu::adapter;
    // The first shadow of a chain is taken after 50 steps.
    const STEPS: usize = 70;
    let Some(adapter) = adapter() else { return };
    let (options, devices) = watched();
    let engine = Engine::gpu(adapter, options, Arc::new(Threads::new(2)));
    let fixture = fixture();
    let (train, _) = fixture.few(2);
    for kind in [PosteriorKind::Sghmc, PosteriorKind::Swag] {
        let mut settings = Settings { steps: STEPS, batch_size: 2, ..settings(kind, 8) };
        settings.posterior.chains = 2;
        settings.freeze = early_layers();
        let run = |loss: usize| {
            let lost = AtomicUsize::new(0);
            let adapter = Adapter::new(Arc::clone(&fixture.model), input(), &engine);
            let adapter = adapter.with_settings(settings.clone()).expect("settings");
            let adapted = adapter.fit(&train, None, &mut |progress| {
                let is_there = progress.phase == Phase::Train && progress.step == loss;
                if is_there && lost.fetch_add(1, Ordering::Relaxed) == 0 {
                    destroy_last(&devices);
                }
                Control::Continue
            });
            let adapted = adapted.expect("a run that goes on");
            let draws: Vec<_> = adapted.posterior.draws().iter().map(bits).collect();
            (draws, adapted.history.len(), lost.into_inner())
        };
        let undisturbed = run(usize::MAX);
        assert_eq!(undisturbed.0.len(), 8);
        // Between two draws after the first chain's shadow, and before the second chain's.
        for loss in [65, STEPS + 5] {
            let disturbed = run(loss);
            assert!(disturbed.2 > 0, "the device was lost");
            assert!(disturbed.0 == undisturbed.0, "{kind:?}, lost at step {loss}");
            assert_eq!(disturbed.1, undisturbed.1);
        }
    }
}

#[test]
fn chains_follow_a_learned_prior_with_and_without_preconditioning() {
    let fixture = fixture();
    let prior = Prior::load(&repository("models/demo/prior.safetensors")).expect("the prior");
    let model = Model::load(&repository("models/demo/backbone.onnx")).expect("the backbone");
    let model = Arc::new(model.cut_at_features(None).expect("its features"));
    let (train, rest) = fixture.few(5);
    let run = |kind, precondition| {
        let mut settings = Settings { prior: PriorKind::Learned, ..settings(kind, 4) };
        settings.posterior.precondition = precondition;
        settings.posterior.cycles = 2;
        let adapter = Adapter::new(Arc::clone(&model), input(), Arc::clone(&fixture.threads))
            .with_prior(prior.clone())
            .and_then(|adapter| adapter.with_settings(settings))
            .expect("an adapter");
        let adapted = adapter.fit(&train, None, &mut |_| Control::Continue).expect("a run");
        assert_eq!(adapted.ending, Ending::Completed);
        let accuracy = fixture.accuracy(&adapted.posterior, &rest);
        assert!(accuracy > 0.8, "{kind:?}, {precondition}: {accuracy}");
        bits(&adapted.posterior.draws()[0])
    };
    for kind in [PosteriorKind::Sgld, PosteriorKind::Sghmc] {
        assert!(run(kind, false) != run(kind, true), "{kind:?}");
    }
}

/// With the backbone frozen and a narrow prior the head's posterior is nearly Gaussian, and chains
/// over it spread as the curvature at the mode says they must.
#[test]
fn chains_over_a_head_spread_as_its_laplace_approximation() {
    /// Of 650 weights' mean variance, from 400 draws of two chains that remember each other.
    const RATIO: std::ops::Range<f64> = 0.85..1.15;
    let fixture = fixture();
    let (train, _) = fixture.few(5);
    let run = |kind, draws| {
        let mut settings = Settings {
            freeze: vec!["*".to_string()],
            head_variance: Some(0.01),
            batch_size: train.len(),
            learning_rate: 0.02,
            steps: 2000,
            ..settings(kind, draws)
        };
        settings.posterior.temperature = Some(1.0);
        if kind == PosteriorKind::Sghmc {
            settings.posterior.cycles = 0;
            settings.posterior.chains = 2;
        }
        let posterior = fixture.fit(&train, settings).posterior;
        let draws = posterior.draws().iter().map(|draw| contiguous(&draw[HEAD_WEIGHT]).to_vec());
        let draws: Vec<Vec<f32>> = draws.collect();
        let variance = |i: usize| {
            let values: Vec<f64> = draws.iter().map(|draw| f64::from(draw[i])).collect();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let squares = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
            squares / (values.len() - 1) as f64
        };
        let len = draws[0].len();
        (0..len).map(variance).sum::<f64>() / len as f64
    };
    let (laplace, chains) = (run(PosteriorKind::Laplace, 400), run(PosteriorKind::Sghmc, 400));
    assert!(RATIO.contains(&(chains / laplace)), "{chains}, not {laplace}");
}
