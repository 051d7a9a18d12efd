use ndarray::array;

use super::*;

#[test]
fn deviations_are_relative_to_the_largest_output() {
    let own = [array![[1.0f32, -4.0], [0.5, 2.0]]];
    assert_eq!(deviation(&own, &own).expect("equal"), 0.0);
    let off = [array![[1.0f32, -4.0], [0.5, 2.5]]];
    assert_eq!(deviation(&off, &own).expect("of one shape"), 0.125);
    for wrong in [f32::NAN, f32::INFINITY] {
        let off = [array![[1.0, wrong], [0.5, 2.0]]];
        assert_eq!(deviation(&off, &own).expect("of one shape"), f64::INFINITY);
    }
    let other = [array![[1.0f32, -4.0, 0.5, 2.0]]];
    assert!(deviation(&other, &own).is_err());
    // What is zero is expected to be zero.
    let zeros = [array![[0.0f32, 0.0]]];
    assert_eq!(deviation(&zeros, &zeros).expect("equal"), 0.0);
    assert!(deviation(&[array![[1e-3f32, 0.0]]], &zeros).expect("of one shape") > AGREEMENT);
}
