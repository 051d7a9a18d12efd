use super::*;
use crate::tensor::tensor;

fn settings(kind: PosteriorKind, draws: usize, chains: usize, cycles: usize) -> PosteriorSettings {
    PosteriorSettings { draws: Some(draws), chains, cycles, ..PosteriorSettings::of(kind) }
}

#[test]
fn chains_share_the_draws_and_have_room_for_them() {
    for (draws, chains) in [(12, 1), (12, 5), (3, 3), (7, 2)] {
        let settings = settings(PosteriorKind::Sghmc, draws, chains, 1);
        let shares: Vec<usize> = (0..chains).map(|chain| settings.draws_of(chain)).collect();
        assert_eq!(shares.iter().sum::<usize>(), draws);
        assert!(shares[0] - shares[chains - 1] <= 1, "{shares:?}");
    }
    let due = |settings: &PosteriorSettings, steps: usize| -> Vec<usize> {
        (0..steps).filter(|&step| langevin::is_due(settings, step, steps)).collect()
    };
    // At a constant rate in the second half, evenly; in cycles in their last three quarters.
    assert_eq!(due(&settings(PosteriorKind::Sgld, 4, 1, 0), 40), [24, 29, 34, 39]);
    assert_eq!(due(&settings(PosteriorKind::Sgld, 3, 1, 1), 40), [19, 29, 39]);
    assert_eq!(due(&settings(PosteriorKind::Sgld, 4, 1, 2), 40), [11, 19, 31, 39]);
}

#[test]
fn settings_out_of_range_are_named() {
    let sghmc = |draws, chains, cycles| settings(PosteriorKind::Sghmc, draws, chains, cycles);
    sghmc(4, 2, 2).check(40).expect("room for two draws in each of two cycles");
    let cases = [
        (settings(PosteriorKind::Map, 2, 1, 1), "a MAP of 2 draws"),
        (sghmc(0, 1, 1), "0 draws"),
        (sghmc(10_001, 1, 1), "10001 draws"),
        (sghmc(4, 5, 1), "5 chains for 4 draws"),
        (sghmc(4, 0, 1), "0 chains"),
        (settings(PosteriorKind::Laplace, 4, 2, 1), "several chains is set"),
        (settings(PosteriorKind::Swag, 4, 2, 2), "cycles is set"),
        (
            PosteriorSettings {
                temperature: Some(1.0),
                ..settings(PosteriorKind::Ensemble, 4, 1, 1)
            },
            "a temperature is set, which is of no use to a posterior of Ensemble",
        ),
        (
            PosteriorSettings { precondition: true, ..PosteriorSettings::default() },
            "preconditioning",
        ),
        (PosteriorSettings { friction: 0.5, ..settings(PosteriorKind::Sgld, 4, 1, 1) }, "friction"),
        (sghmc(41, 1, 0), "40 steps in 0 cycles have room for 20 draws"),
        (sghmc(40, 1, 4), "have room for"),
        (PosteriorSettings { temperature: Some(-1.0), ..sghmc(4, 1, 1) }, "temperature is -1"),
        (PosteriorSettings { friction: 0.0, ..sghmc(4, 1, 1) }, "friction is 0"),
    ];
    for (settings, part) in cases {
        let error = settings.check(40).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn what_diverges_keeps_its_draws_or_its_start() {
    let weights = |x: f32| Weights::from([("w".to_string(), tensor(&[1], vec![x]).expect("w"))]);
    let error = || Error::new(Kind::Diverged, "step 7: loss NaN").hint("lower --lr");
    let kept = Drawn::diverged(vec![weights(1.0), weights(2.0)], &weights(0.0), error());
    assert_eq!((kept.draws.len(), kept.ending), (2, Ending::Diverged));
    let notice = kept.notice.expect("a reason");
    assert!(notice.error.contains("lower --lr"), "{}", notice.error);
    assert!(notice.kept.contains("2 draws"), "{}", notice.kept);
    let kept = Drawn::diverged(Vec::new(), &weights(0.0), error());
    assert_eq!(kept.draws, [weights(0.0)]);
    let error = check_finite(&weights(f32::NAN), 6).expect_err("NaN").to_string();
    assert!(error.contains("'w'") && error.contains("step 7"), "{error}");
}
