use ndarray::Array4;

use super::super::fixtures::says;
use super::*;

/// A data set whose example `i` has label `labels[i]` and, as its only pixel, `i`.
fn dataset(labels: &[usize]) -> Dataset {
    let x = Array4::from_shape_fn((labels.len(), 1, 1, 1), |(n, ..)| n as u8);
    let classes = (0..=3).map(|class| class.to_string()).collect();
    Dataset::from_images_u8(x.view(), Some(labels), classes).expect("valid")
}

/// Ten, six, one and no examples of the four classes.
fn uneven() -> Dataset {
    dataset(&[0, 1, 0, 1, 0, 1, 0, 2, 0, 1, 0, 1, 0, 1, 0, 0, 0])
}

#[test]
fn a_split_is_stratified_and_loses_nothing() {
    let data = uneven();
    let (train, held) = data.split(1, 0.3).expect("valid");
    assert_eq!(train.class_counts(), [7, 4, 1, 0]);
    assert_eq!(held.class_counts(), [3, 2, 0, 0]);
    let mut rows = [&train.rows[..], &held.rows[..]].concat();
    rows.sort_unstable();
    assert_eq!(rows, (0..17).collect::<Vec<_>>());
}

#[test]
fn a_split_depends_on_the_seed_and_on_nothing_else() {
    let data = uneven();
    let held = |seed| data.split(seed, 0.4).expect("valid").1.rows;
    assert_eq!(held(1), held(1));
    assert!((2..8).any(|seed| held(seed) != held(1)));
}

#[test]
fn one_example_of_each_class_stays_to_train_on() {
    let data = dataset(&[2, 0, 1]);
    for fraction in [0.0, 0.5, 0.99] {
        let (train, held) = data.split(0, fraction).expect("valid");
        assert_eq!((train.len(), held.len()), (3, 0));
    }
    let (train, held) = uneven().split(0, 0.99).expect("valid");
    assert_eq!(train.class_counts(), [1, 1, 1, 0]);
    assert_eq!(held.class_counts(), [9, 5, 0, 0]);
}

#[test]
fn few_takes_as_many_of_each_class_as_there_are() {
    let data = uneven();
    let (few, rest) = data.few(4, 3).expect("valid");
    assert_eq!(few.class_counts(), [3, 3, 1, 0]);
    assert_eq!(rest.class_counts(), [7, 3, 0, 0]);
    assert!(few.rows.iter().all(|row| !rest.rows.contains(row)));
    let (all, none) = data.few(4, 100).expect("valid");
    assert_eq!((all.rows, none.len()), (data.rows.clone(), 0));
}

#[test]
fn arguments_out_of_range_are_named() {
    let data = uneven();
    for fraction in [-0.1, 1.0, f64::NAN] {
        says(data.split(0, fraction), &["the part to hold out is", &fraction.to_string()]);
    }
    says(data.few(0, 0), &["zero examples for each class"]);
}

#[test]
fn folds_are_disjoint_and_leave_examples_of_every_class() {
    let data = uneven();
    for count in [2, 3, 5] {
        let folds = data.folds(4, count).expect("valid");
        let mut all = folds.concat();
        all.sort_unstable();
        assert_eq!(all, (0..17).filter(|&i| i != 7).collect::<Vec<_>>(), "all but the only one");
        let sizes = folds.iter().map(Vec::len);
        assert!(sizes.clone().max() <= sizes.min().map(|least| least + 1));
        for fold in &folds {
            let rest: Vec<usize> = (0..17).filter(|i| !fold.contains(i)).collect();
            let counts = data.subset(&rest).expect("in range").class_counts();
            assert!(counts[..3].iter().all(|&count| count > 0), "{counts:?}");
        }
    }
    assert_eq!(data.folds(4, 3).expect("valid"), data.folds(4, 3).expect("valid"));
    says(data.folds(4, 1), &["1 folds", "at least two"]);
}
