//! That a run whose strength is chosen ends at the average along its path, and was judged by it.

use priorfit::adapt::{
    Adapted, Choice, Control, Ending, Phase, PosteriorKind, PosteriorSettings, PriorKind, Settings,
};
use priorfit::data::Dataset;
use priorfit::prior::Weights;

use crate::adapt::{Fixture, fixture};

/// Sums and divisions of a few weights, each rounded.
const ROUNDING: f32 = 1e-6;

fn settings(gate: bool) -> Settings {
    let (prior, steps, batch_size) = (PriorKind::Isotropic, 24, 16);
    Settings { prior, gate, steps, batch_size, ..Settings::default() }
}

fn end(adapted: &Adapted) -> &Weights {
    &adapted.posterior.draws()[0]
}

/// Checks that `found` is the mean of `parts`.
fn is_mean(found: &Weights, parts: &[&Weights]) {
    for (name, found) in found {
        let sum = parts.iter().skip(1).fold(parts[0][name].clone(), |sum, w| sum + &w[name]);
        let mean = sum / parts.len() as f32;
        let off = (found - &mean).iter().fold(0.0f32, |most, x| most.max(x.abs()));
        assert!(off <= ROUNDING, "'{name}' is {off} from the mean of {}", parts.len());
    }
}

/// A choice of the digits, and another run by it that ends after stage `kept` of its path, or is
/// stopped before.
fn along(fixture: &Fixture, train: &Dataset, found: &Choice, by: Settings, kept: usize) -> Adapted {
    until(fixture, train, found, by, kept, usize::MAX)
}

fn until(
    fixture: &Fixture,
    train: &Dataset,
    found: &Choice,
    by: Settings,
    kept: usize,
    last: usize,
) -> Adapted {
    let choice = Choice { kept, ..found.clone() };
    let mut observe = |p: priorfit::adapt::Progress| match p.phase == Phase::Train && p.step >= last
    {
        true => Control::Stop,
        false => Control::Continue,
    };
    fixture.adapter(by).with_choice(choice).fit(train, None, &mut observe).expect("a run")
}

#[test]
fn a_run_ends_at_the_mean_of_the_probe_and_its_stages() {
    let fixture = fixture();
    let (train, _) = fixture.few(6);
    let first = fixture.fit(&train, settings(true));
    let found = first.choice.as_ref().expect("a choice");
    let ends = [1, 2, 3].map(|kept| along(&fixture, &train, found, settings(false), kept));
    let mut parts = vec![&first.probe.draws()[0]];
    for (before, stage) in ends.iter().enumerate() {
        assert!(parts.iter().all(|part| *part != end(stage)), "stage {} moves", before + 1);
        parts.push(end(stage));
        let average = along(&fixture, &train, found, settings(true), before + 1);
        is_mean(end(&average), &parts);
    }
    // Where it was stopped counts as the end of that stage.
    let step = found.candidates[2].steps - 1;
    let [plain, average] =
        [false, true].map(|gate| until(&fixture, &train, found, settings(gate), 2, step));
    assert_eq!([plain.ending, average.ending], [Ending::Stopped; 2]);
    is_mean(end(&average), &[parts[0], parts[1], end(&plain)]);
}

#[test]
fn with_nothing_to_hold_out_it_is_the_mean_of_the_probe_and_the_end() {
    let fixture = fixture();
    let (train, _) = fixture.few(1);
    let [plain, average] = [false, true].map(|gate| fixture.fit(&train, settings(gate)));
    assert!(plain.choice.is_none() && average.choice.is_none());
    is_mean(end(&average), &[&average.probe.draws()[0], end(&plain)]);
    // A strength that was asked for is the strength of what comes out.
    let given = |gate| fixture.fit(&train, Settings { strength: Some(1.0), ..settings(gate) });
    assert!(end(&given(true)) == end(&given(false)));
}

/// The first member of an ensemble starts where the MAP does.
#[test]
fn members_of_an_ensemble_are_averages_too() {
    let fixture = fixture();
    let (train, _) = fixture.few(1);
    let map = fixture.fit(&train, settings(true));
    let posterior =
        PosteriorSettings { draws: Some(2), ..PosteriorSettings::of(PosteriorKind::Ensemble) };
    let ensemble = fixture.fit(&train, Settings { posterior, ..settings(true) });
    assert!(end(&ensemble) == end(&map));
    assert!(ensemble.posterior.draws()[1] != *end(&map));
}

/// What cross-validation says of an average is what such a run on all but a fold gives, of each
/// fold in turn. With one variance to try, its heads are theirs.
#[test]
fn the_likelihood_that_is_promised_is_that_of_the_average() {
    let fixture = fixture();
    let (train, _) = fixture.few(6);
    let by = Settings { head_variance: Some(1.0), ..settings(true) };
    let first = fixture.fit(&train, by.clone());
    let found = first.choice.as_ref().expect("a choice");
    let folds = train.folds(by.seed, found.folds).expect("folds");
    for kept in [1, 3] {
        let mut sum = 0.0;
        for fold in &folds {
            let rest: Vec<_> = (0..train.len()).filter(|i| !fold.contains(i)).collect();
            let [rest, held_out] = [&rest, fold].map(|part| train.subset(part).expect("examples"));
            let run = along(&fixture, &rest, found, by.clone(), kept);
            let report = run.posterior.evaluate(&held_out, &fixture.threads, &mut |_| true);
            sum += report.expect("a report").summary().nll * held_out.len() as f64;
        }
        let (nll, promised) = (sum / train.len() as f64, found.candidates[kept].held_out.nll);
        assert!((nll - promised).abs() < f64::from(ROUNDING), "{kept}: {nll}, promised {promised}");
    }
}
