use std::fs;
use std::path::Path;

use ndarray::{Array4, ArrayView4, s};
use tempfile::TempDir;
use zip::CompressionMethod;

use super::fixtures::*;
use super::*;

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.into()).collect()
}

fn filled(data: &Dataset, preprocess: &Preprocess, threads: usize) -> Vec<f32> {
    let indices: Vec<usize> = (0..data.len()).collect();
    let mut out = vec![f32::NAN; indices.len() * preprocess.image_len()];
    let augmentation = Augment { flip: Flip::Horizontal, crop: Crop::Padded { pixels: 2 } };
    let augmentation = augmentation.at(3, 5);
    let threads = Threads::new(threads);
    data.fill(&indices, preprocess, Some(&augmentation), &mut out, &threads).expect("fills");
    out
}

#[test]
fn a_folder_gives_sorted_classes_and_files() {
    let (_guard, root) = insects();
    let data = Dataset::open(&root).expect("opens");
    assert_eq!(data.classes(), ["ant", "bee"]);
    assert_eq!((data.len(), data.class_counts()), (5, vec![2, 3]));
    assert_eq!(data.labels(&[4, 0]).expect("labelled"), [1, 0]);
    assert_eq!(data.path(2), Some(&*root.join("bee/b1.png")));
    assert_eq!((data.label(5), data.path(5)), (None, None));
}

#[test]
fn hidden_files_and_other_files_are_ignored() {
    let (_guard, root) = insects();
    for name in ["notes.txt", ".hidden", "ant/.a.png", "bee/list.csv"] {
        fs::write(root.join(name), "no image").expect("writes");
    }
    fs::create_dir(root.join(".cache")).expect("makes a folder");
    fs::create_dir(root.join("ant/nested")).expect("makes a folder");
    let data = Dataset::open(&root).expect("opens");
    assert_eq!(data.class_counts(), [2, 3]);
    assert_eq!(folder::scan(&root).expect("scans").ignored, 6);
    assert_eq!(folder::images_in(&root.join("ant")).expect("lists").ignored, 2);
}

#[test]
fn a_class_without_images_is_named() {
    let (_guard, root) = insects();
    fs::create_dir(root.join("wasp")).expect("makes a folder");
    fs::write(root.join("wasp/readme.md"), "soon").expect("writes");
    says(Dataset::open(&root), &["wasp has no images", "PNG or JPEG"]);
}

#[test]
fn images_without_classes_open_for_prediction_only() {
    let (_guard, root) = insects();
    let data = Dataset::open(&root.join("ant")).expect("opens");
    assert_eq!((data.len(), data.label(0)), (2, None));
    says(data.labels(&[0]), &["no labels"]);
    says(data.split(0, 0.5), &["no labels", "one subfolder of images for each class"]);
    says(Dataset::folder(&root.join("ant")), &["ant has no class subfolders"]);
}

#[test]
fn what_is_no_data_is_refused_by_name() {
    let (guard, root) = insects();
    let other = guard.path().join("weights.npz");
    fs::write(&other, "not a zip archive").expect("writes");
    says(Dataset::open(&other), &["weights.npz is neither", "np.savez"]);
    says(Dataset::open(&root.join("bee/b1.png")), &["b1.png is neither"]);
    says(Dataset::open(&root.join("missing")), &["cannot open", "missing"]);
    let empty = TempDir::new().expect("a temporary folder");
    says(Dataset::open(empty.path()), &["has no images"]);
    says(Dataset::from_files(Vec::new()), &["there are no images"]);
}

#[test]
fn a_file_that_does_not_decode_is_named_whatever_the_threads() {
    let (_guard, root) = insects();
    for (name, content) in [("bee/b0.png", "text"), ("bee/z.jpg", "\u{ff}junk")] {
        fs::write(root.join(name), content).expect("writes");
    }
    let data = Dataset::open(&root).expect("opens");
    let (preprocess, indices) = (Preprocess::new(3, 4, 4), [6, 5, 4, 3, 2, 1]);
    for threads in [1, 4] {
        let mut out = vec![0.0; 6 * preprocess.image_len()];
        let threads = Threads::new(threads);
        says(data.fill(&indices, &preprocess, None, &mut out, &threads), &["bee/z.jpg: not a PNG"]);
        says(data.resized(&preprocess, 1 << 20, &threads), &["bee/b0.png: not a PNG"]);
    }
    fs::remove_file(root.join("ant/a2.png")).expect("removes");
    let mut out = vec![0.0; preprocess.image_len()];
    let lost = data.fill(&[1], &preprocess, None, &mut out, &Threads::new(1));
    says(lost, &["cannot open", "ant/a2.png"]);
}

#[test]
fn a_batch_is_the_same_on_any_number_of_threads() {
    let (_guard, root) = insects();
    let data = Dataset::open(&root).expect("opens");
    let preprocess = Preprocess::new(3, 6, 5);
    let alone = filled(&data, &preprocess, 1);
    assert!(alone.iter().all(|x| x.is_finite()));
    for threads in [2, 3, 8] {
        assert_eq!(filled(&data, &preprocess, threads), alone);
    }
}

#[test]
fn resized_data_gives_exactly_the_same_numbers() {
    let (_guard, root) = insects();
    let data = Dataset::open(&root).expect("opens").subset(&[4, 2, 0, 1]).expect("in range");
    let threads = Threads::new(2);
    for channels in [1, 3] {
        let preprocess = Preprocess {
            resize: Resize::CentreCrop { part: 0.8 },
            ..Preprocess::new(channels, 6, 5)
        };
        let stored = data.resized(&preprocess, 1 << 20, &threads).expect("resizes");
        assert!(stored.path(0).is_none(), "the images are in memory");
        assert_eq!(filled(&stored, &preprocess, 2), filled(&data, &preprocess, 2));
        assert_eq!(stored.labels(&[0, 1, 2, 3]).expect("labelled"), [1, 1, 0, 0]);
        let again = stored.resized(&preprocess, 1 << 20, &threads).expect("resizes");
        assert!(Arc::ptr_eq(&again.images, &stored.images));
        let poor = data.resized(&preprocess, 4 * preprocess.image_len() - 1, &threads);
        assert!(poor.expect("stays").path(0).is_some(), "over the budget nothing is stored");
    }
}

#[test]
fn arrays_npz_and_files_agree() {
    let images: Vec<_> = (0..3u8).map(|tone| picture(6, 4, 50 * tone)).collect();
    let pixels: Vec<u8> = images.iter().flat_map(|image| image.as_raw().clone()).collect();
    let x = npy("'|u1'", "False", "(3, 4, 6, 3)", &pixels);
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("set.npz");
    fs::write(&path, zip(&[("x.npy", x)], CompressionMethod::Deflated)).expect("writes");
    let files: Vec<_> = (0..3).map(|i| folder.path().join(format!("{i}.png"))).collect();
    files.iter().zip(images).for_each(|(path, image)| save(image, path));
    let view = ArrayView4::from_shape((3, 4, 6, 3), &pixels).expect("the shape fits");
    let sets = [
        Dataset::open(&path).expect("opens"),
        Dataset::from_images_u8(view, None, Vec::new()).expect("not empty"),
        Dataset::from_files(files).expect("not empty"),
    ];
    for preprocess in [Preprocess::new(3, 4, 6), Preprocess::new(1, 3, 3)] {
        let [npz, array, files] = sets.each_ref().map(|data| filled(data, &preprocess, 2));
        assert!(npz == array && array == files);
    }
}

#[test]
fn strided_views_are_stored_in_order() {
    let array = Array4::from_shape_fn((4, 2, 3, 1), |(n, y, x, _)| (n * 16 + y * 4 + x) as u8);
    let view = array.slice(s![..;2, .., ..;-1, ..]);
    let data = Dataset::from_images_u8(view, None, Vec::new()).expect("not empty");
    let preprocess = Preprocess { scale: 1.0, ..Preprocess::new(1, 2, 3) };
    let mut out = [0.0; 6];
    data.fill(&[1], &preprocess, None, &mut out, &Threads::new(1)).expect("fills");
    assert_eq!(out, [34.0, 33.0, 32.0, 38.0, 37.0, 36.0]);
}

#[test]
fn wrong_labels_are_named() {
    let x = Array4::<u8>::zeros((3, 2, 2, 1));
    let make =
        |labels: &[usize]| Dataset::from_images_u8(x.view(), Some(labels), names(&["no", "yes"]));
    says(make(&[0, 1]), &["2 labels for 3 images"]);
    says(make(&[0, 1, 2]), &["label 2 of example 2", "number of classes, 2"]);
    let many = vec![String::new(); CLASSES_MAX + 1];
    says(Dataset::from_images_u8(x.view(), Some(&[0, 0, 0]), many), &["65537 classes"]);
    let none = Array4::<u8>::zeros((0, 2, 2, 1));
    says(Dataset::from_images_u8(none.view(), None, Vec::new()), &["no images", "[0,2,2,1]"]);
}

#[test]
fn numbers_that_are_not_finite_are_named() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut x = Array4::<f32>::zeros((3, 2, 2, 4));
        x[[2, 1, 0, 3]] = bad;
        let text = bad.to_string();
        says(Dataset::from_arrays_f32(x.view(), None, Vec::new()), &["x[2,1,0,3] is", &text]);
    }
}

#[test]
fn subsets_share_storage_and_check_their_indices() {
    let x = Array4::<u8>::zeros((4, 2, 2, 1));
    let classes = names(&["a", "b", "c"]);
    let data = Dataset::from_images_u8(x.view(), Some(&[0, 1, 2, 1]), classes).expect("valid");
    let part = data.subset(&[3, 2, 3]).expect("in range").subset(&[2, 1]).expect("in range");
    assert!(Arc::ptr_eq(&part.images, &data.images));
    assert_eq!(part.labels(&[0, 1]).expect("labelled"), [1, 2]);
    assert_eq!(part.class_counts(), [0, 1, 1]);
    assert!(data.subset(&[]).expect("in range").is_empty());
    says(data.subset(&[4]), &["no example 4 among 4"]);
    says(part.labels(&[2]), &["no example 2 among 2"]);
}

#[test]
fn classes_are_matched_by_name_or_by_number() {
    let (_guard, root) = insects();
    let data = Dataset::open(&root).expect("opens");
    let known = names(&["wasp", "bee", "ant"]);
    let matched = data.with_classes(&known).expect("all are known");
    assert_eq!(matched.class_counts(), [0, 3, 2]);
    says(data.with_classes(&names(&["bee"])), &["ant/a1.jpeg", "\"ant\"", "1 known classes (bee)"]);
    let bees = data.subset(&[2, 3]).expect("in range");
    assert_eq!(bees.with_classes(&names(&["bee"])).expect("known").class_counts(), [2]);
    let numbered = small_npz(CompressionMethod::Stored);
    let numbered = Dataset::from_npz(std::io::Cursor::new(numbered)).expect("valid");
    assert_eq!(numbered.with_classes(&known).expect("three").class_counts(), [1, 2, 1]);
    says(numbered.with_classes(&known[..2]), &["example 3", "\"2\"", "2 known classes"]);
}

#[test]
fn a_buffer_of_another_length_is_refused() {
    let x = Array4::<u8>::zeros((4, 2, 2, 1));
    let data = Dataset::from_images_u8(x.view(), None, Vec::new()).expect("not empty");
    let (preprocess, threads) = (Preprocess::new(1, 2, 2), Threads::new(1));
    let mut out = [0.0; 7];
    says(
        data.fill(&[0, 1], &preprocess, None, &mut out, &threads),
        &["7 numbers", "2 images of 4"],
    );
    says(data.fill(&[9], &preprocess, None, &mut out[..4], &threads), &["no example 9"]);
    data.fill(&[], &preprocess, None, &mut [], &threads).expect("nothing to do");
}

#[test]
fn a_missing_npz_file_is_an_io_error() {
    let error = Dataset::npz(Path::new("nowhere.npz")).expect_err("there is no such file");
    assert_eq!(error.kind(), crate::error::Kind::Io);
    assert!(error.to_string().contains("nowhere.npz"));
}
