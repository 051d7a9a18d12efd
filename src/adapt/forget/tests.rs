use super::*;

fn identity(image: &str, example: &str) -> Identity {
    Identity { image: image.into(), example: example.into() }
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| text.to_string()).collect()
}

#[test]
fn examples_are_found_in_the_order_of_the_record_however_the_data_lie() {
    let here =
        [identity("i3", "e3"), identity("i1", "e1"), identity("i9", "e9"), identity("i2", "e2")];
    let record = texts(&["e1", "e2", "e3"]);
    let gone = |images: &[&'static str], hashes: &[&'static str], missing| Gone {
        hashes: hashes.iter().copied().collect(),
        images: images.iter().copied().collect(),
        missing,
    };
    let all = gone(&[], &[], false).leave(&record, &here).expect("all are there");
    assert_eq!((all.kept, all.others), (vec![1, 3, 0], 1));
    let part = gone(&["i2"], &[], false).leave(&record, &here).expect("all are there");
    assert_eq!((part.kept, part.forgotten), (vec![1, 0], texts(&["e2"])));
    // One that is gone already may be named by its hash.
    let part = gone(&[], &["e3"], false).leave(&record, &here[1..]).expect("the others are there");
    assert_eq!((part.kept, part.forgotten), (vec![0, 2], texts(&["e3"])));
    let part = gone(&[], &[], true).leave(&record, &here[1..]).expect("what is gone may go");
    assert_eq!((part.kept, part.forgotten), (vec![0, 2], texts(&["e3"])));
    let error = gone(&["i1"], &[], false).leave(&record, &here[1..]).err().expect("one lacks");
    assert!(error.to_string().contains("1 of the 3 examples"), "{error}");
}

#[test]
fn copies_are_counted_and_go_together() {
    let here = [identity("i1", "e1"), identity("i1", "e1"), identity("i1", "other target")];
    let record = texts(&["e1", "e1", "other target"]);
    let none = Gone { hashes: BTreeSet::new(), images: HashSet::new(), missing: false };
    assert_eq!(none.leave(&record, &here).expect("all are there").kept, [0, 1, 2]);
    assert!(none.leave(&record, &here[1..]).is_err(), "a copy lacks");
    let gone = Gone { images: ["i1"].into(), ..none };
    let part = gone.leave(&record, &here).expect("all are there");
    assert_eq!((part.kept.len(), part.forgotten.len()), (0, 3));
}

#[test]
fn a_hash_is_known_by_its_beginning_and_refused_where_it_is_no_examples() {
    let known = BTreeSet::from(["0123456789ab", "0123456788ab", "ffffffffffff"]);
    let of = |text: &str| resolve(&texts(&[text]), &known);
    assert_eq!(of("FFFFFFFF").expect("one"), ["ffffffffffff"].into());
    assert_eq!(of("0123456789").expect("one"), ["0123456789ab"].into());
    for (text, says) in [
        ("01234567", "several hashes begin with 01234567"),
        ("fffffff", "is no hash"),
        ("not a hash", "is no hash"),
        ("eeeeeeee", "no example of the model has the hash eeeeeeee"),
    ] {
        let error = of(text).expect_err(text).to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn steps_follow_the_examples_where_passes_were_counted() {
    let passes = Recipe { epochs: Some(3), ..Recipe::default() };
    assert_eq!((passes.steps(7, 20, 8), passes.steps(7, 16, 8)), (9, 6));
    assert_eq!(Recipe::default().steps(7, 20, 8), 7);
    let suggested = |examples| Recipe::suggested().steps(7, examples, 32);
    assert_eq!([10, 512, 1000, 50_000].map(suggested), [200, 200, 384, 1000]);
    assert_eq!((device("cpu (3 threads)"), device("llvmpipe (LLVM)")), ("cpu", "llvmpipe (LLVM)"));
}
