//! What cross-validation chooses, and that what it chooses is what is kept.

use priorfit::adapt::{
    Adapted, Choice, Control, Ending, Phase, PosteriorKind, PosteriorSettings, PriorKind,
    SGHMC_RATE, Settings,
};
use priorfit::data::Dataset;
use priorfit::tensor::contiguous;

use crate::adapt::{Fixture, fixture};
use crate::approximations::KINDS;

fn settings(steps: usize) -> Settings {
    Settings { prior: PriorKind::Isotropic, steps, batch_size: 16, ..Settings::default() }
}

fn choice(adapted: &Adapted) -> &Choice {
    adapted.choice.as_ref().expect("enough examples to choose by")
}

fn bits(posterior: &priorfit::posterior::Posterior) -> Vec<f32> {
    posterior.draws()[0].values().flat_map(|w| contiguous(w).to_vec()).collect()
}

#[test]
fn the_best_held_out_likelihood_is_kept_with_its_temperature() {
    let fixture = fixture();
    let (train, _) = fixture.few(6);
    let mut steps = 0;
    let adapter = fixture.adapter(settings(24));
    let adapted = adapter
        .fit(&train, None, &mut |progress| {
            if progress.phase == Phase::Train {
                steps = steps.max(progress.step);
            }
            Control::Continue
        })
        .expect("a run");
    let choice = choice(&adapted);
    assert_eq!((choice.folds, choice.held_out), (4, 60));
    assert_eq!(choice.candidates.len(), 5, "the probe and four strengths");
    let kept = choice.kept();
    assert!(choice.candidates.iter().all(|c| kept.held_out.nll <= c.held_out.nll));
    assert!(choice.candidates.windows(2).all(|c| c[0].steps < c[1].steps));
    let strengths: Vec<f64> = choice.candidates.iter().filter_map(|c| c.strength).collect();
    assert!(strengths.windows(2).all(|s| s[0] < s[1]), "the prior loosens: {strengths:?}");
    assert!((adapted.posterior.temperature() - kept.temperature).abs() < 1e-12);
    let probe = choice.candidates[0].temperature;
    assert!((adapted.probe.temperature() - probe).abs() < 1e-12);
    // Five runs that share the steps of two: four of nine steps in cross-validation, one at most.
    assert!((36..=45).contains(&steps), "{steps} steps");
    assert_eq!(bits(&adapted.posterior) == bits(&adapted.probe), choice.kept == 0);
}

/// A learning rate that ruins the features leaves the probe, unless there is no gate.
#[test]
fn an_adaptation_that_is_worse_than_the_probe_is_not_kept() {
    let fixture = fixture();
    let (train, rest) = fixture.few(6);
    let ruinous = Settings { strength: Some(1e6), learning_rate: 0.5, ..settings(24) };
    let gated = fixture.fit(&train, ruinous.clone());
    let candidates = &choice(&gated).candidates;
    assert!(candidates[1].held_out.nll > candidates[0].held_out.nll + 0.1, "{candidates:?}");
    assert_eq!(choice(&gated).kept, 0);
    assert!(gated.history.is_empty() && bits(&gated.posterior) == bits(&gated.probe));
    let free = fixture.fit(&train, Settings { gate: false, steps: 8, ..ruinous });
    assert_eq!(choice(&free).candidates.len(), 1, "only the head was to be chosen");
    assert!(bits(&free.posterior) != bits(&free.probe));
    let accuracy = |adapted: &Adapted| fixture.accuracy(&adapted.posterior, &rest);
    assert!(accuracy(&gated) > accuracy(&free) + 0.1);
}

#[test]
fn with_nothing_to_hold_out_the_defaults_hold() {
    let fixture = fixture();
    let (train, _) = fixture.few(1);
    let adapted = fixture.fit(&train, settings(6));
    assert!(adapted.choice.is_none());
    assert!((adapted.posterior.temperature() - 1.0).abs() < 1e-12);
    assert_eq!(adapted.history.len(), 6, "ten examples are one batch");
}

#[test]
fn the_same_seed_makes_the_same_choice() {
    let fixture = fixture();
    let (train, _) = fixture.few(3);
    let run = || fixture.fit(&train, settings(12));
    let (a, b) = (run(), run());
    assert_eq!(a.choice, b.choice);
    assert!(bits(&a.posterior) == bits(&b.posterior));
}

/// With a choice that was made before, a run is the same but for the steps that choosing takes.
#[test]
fn a_choice_made_before_is_not_made_again() {
    let fixture = fixture();
    let (train, _) = fixture.few(6);
    for kind in [PosteriorKind::Map, PosteriorKind::Sghmc] {
        let (posterior, clip) = (PosteriorSettings::of(kind), None);
        let settings = Settings { posterior, clip, gate: false, ..settings(24) };
        let own = fixture.fit(&train, settings.clone());
        let adapter = fixture.adapter(settings).with_choice(choice(&own).clone());
        let mut steps = 0;
        let shared = adapter.fit(&train, None, &mut |progress| {
            steps += usize::from(progress.phase == Phase::Train);
            Control::Continue
        });
        let shared = shared.expect("a run");
        let last = match kind {
            PosteriorKind::Map => choice(&own).kept().steps,
            _ => 24,
        };
        assert_eq!(steps, last, "nothing is held out again");
        assert_eq!(shared.choice, own.choice);
        assert!(shared.posterior.draws() == own.posterior.draws());
        assert!((shared.posterior.temperature() - own.posterior.temperature()).abs() < 1e-12);
    }
}

/// Whatever cross-validation is at, stopping ends with the probe.
#[test]
fn stopping_a_cross_validation_keeps_the_probe() {
    let fixture = fixture();
    let (train, rest) = fixture.few(6);
    for (phase, step) in [(Phase::Probe, 3), (Phase::Train, 1), (Phase::Train, 30)] {
        let adapted = fixture
            .adapter(settings(24))
            .fit(&train, None, &mut |p| match p.phase == phase && p.step >= step {
                true => Control::Stop,
                false => Control::Continue,
            })
            .expect("something to keep");
        assert_eq!(adapted.ending, Ending::Stopped);
        assert!(bits(&adapted.posterior) == bits(&adapted.probe));
        assert!(fixture.accuracy(&adapted.posterior, &rest) > 0.8);
    }
}

/// With a gate there is the probe to keep; without one nothing is left.
#[test]
fn a_run_that_diverges_while_choosing_says_which_setting_to_change() {
    let fixture: Fixture = fixture();
    let (train, _) = fixture.few(3);
    let huge = Settings { learning_rate: f32::MAX, clip: None, ..settings(12) };
    let adapted = fixture.fit(&train, huge.clone());
    let found = choice(&adapted);
    assert_eq!((found.candidates.len(), found.kept), (1, 0));
    assert!(bits(&adapted.posterior) == bits(&adapted.probe));
    let reason = found.left_out.as_deref().expect("a reason");
    assert!(reason.contains("--lr") && reason.contains("0 remain"), "{reason}");
    let free = Settings { gate: false, ..huge };
    let adapted = fixture.fit(&train, free);
    assert_eq!((adapted.ending, choice(&adapted).kept), (Ending::Diverged, 0));
    assert!(bits(&adapted.posterior) == bits(&adapted.probe));
    let notice = adapted.notice.expect("a reason");
    assert!(notice.contains("--lr") && notice.contains("probe is kept"), "{notice}");
}

/// Steps of training in a run, and what it comes to.
fn counted(fixture: &Fixture, train: &Dataset, settings: Settings) -> (usize, Adapted) {
    let (mut steps, mut told) = (0, Vec::new());
    let adapted = fixture.adapter(settings).fit(train, None, &mut |progress| {
        if progress.phase == Phase::Train {
            steps += 1;
            told.push([progress.step, progress.steps]);
        }
        Control::Continue
    });
    assert!(told.iter().all(|[step, of]| step <= of), "{told:?}");
    assert!(told.windows(2).all(|t| t[0][0] < t[1][0]), "{told:?}");
    (steps, adapted.expect("a run"))
}

/// Choosing the strength costs no more than the run itself, whatever is drawn at its end.
#[test]
fn a_chosen_strength_costs_at_most_twice_a_given_one() {
    let fixture = fixture();
    for shots in [4, 12, 45] {
        let (train, _) = fixture.few(shots);
        for kind in KINDS {
            let settings = Settings { gate: false, ..drawing(kind) };
            let fixed = Settings { strength: Some(1.0), ..settings.clone() };
            let steps = [settings, fixed].map(|settings| counted(&fixture, &train, settings).0);
            assert!(steps[0] <= 2 * steps[1], "{kind:?}, {shots}: {steps:?}");
        }
    }
}

fn drawing(kind: PosteriorKind) -> Settings {
    let draws = if kind == PosteriorKind::Map { None } else { Some(4) };
    let posterior = PosteriorSettings { draws, ..PosteriorSettings::of(kind) };
    Settings { posterior, clip: None, learning_rate: SGHMC_RATE, ..settings(16) }
}

/// Whether there are draws follows from what cross-validation found of them, and predictions have
/// the temperature that it found for what is kept.
#[test]
fn draws_are_kept_where_they_predict_as_well_as_the_probe() {
    let fixture = fixture();
    let (train, _) = fixture.few(4);
    for kind in KINDS {
        let settings = drawing(kind);
        let (_, adapted) = counted(&fixture, &train, settings.clone());
        let found = choice(&adapted);
        assert_eq!(found.draws.is_some(), kind != PosteriorKind::Map, "{kind:?}: {found:?}");
        if let Some(draws) = &found.draws {
            let probe = &found.candidates[0].held_out;
            assert_eq!(found.keeps_draws, draws.held_out.nll <= probe.nll, "{found:?}");
            let count = if found.keeps_draws { 4 } else { 1 };
            assert_eq!(adapted.posterior.draws().len(), count, "{kind:?}");
        }
        assert!((adapted.posterior.temperature() - found.kept().temperature).abs() < 1e-12);
        let (_, free) = counted(&fixture, &train, Settings { gate: false, ..settings });
        assert!(choice(&free).draws.is_none() && choice(&free).keeps_draws);
    }
}

/// Noise that drowns what was learned leaves one network.
#[test]
fn draws_that_are_worse_or_diverge_are_not_kept() {
    let fixture = fixture();
    let (train, rest) = fixture.few(4);
    for (kind, temperature) in [(PosteriorKind::Laplace, 1e4), (PosteriorKind::Sgld, 1e20)] {
        let mut hot = Settings { strength: Some(1.0), ..drawing(kind) };
        hot.posterior.temperature = Some(temperature);
        let (_, adapted) = counted(&fixture, &train, hot.clone());
        let found = choice(&adapted);
        assert!(!found.keeps_draws, "{kind:?}: {found:?}");
        assert_eq!(adapted.posterior.draws().len(), 1);
        assert_eq!(adapted.ending, Ending::Completed);
        let (_, free) = counted(&fixture, &train, Settings { gate: false, ..hot });
        let [kept, free] = [&adapted, &free].map(|a| fixture.accuracy(&a.posterior, &rest));
        assert!(kept >= free, "{kind:?}: {kept}, without a gate {free}");
        if kind == PosteriorKind::Sgld {
            let reason = found.left_out.as_deref().expect("a reason");
            assert!(reason.contains("--temperature"), "{reason}");
        }
    }
}

/// A rate that only strong priors withstand leaves their stages to choose from.
#[test]
fn stages_in_which_a_run_diverges_are_left_out() {
    let fixture = fixture();
    let (train, _) = fixture.few(6);
    for gate in [true, false] {
        let steep = Settings { learning_rate: 1.6, clip: None, gate, ..settings(24) };
        let adapted = fixture.fit(&train, steep);
        let found = choice(&adapted);
        assert!((2..=4).contains(&found.candidates.len()), "{found:?}");
        let reason = found.left_out.as_deref().expect("a reason");
        let remain = format!("of 4 stages {} remain", found.candidates.len() - 1);
        assert!(reason.contains("--lr") && reason.contains(&remain), "{reason}");
        assert_eq!(found.kept == 0, gate, "{found:?}");
        let steps: usize = adapted.history.len();
        assert_eq!(steps > 0, !gate, "the run ends where the choice was made");
    }
}
