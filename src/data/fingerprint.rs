//! What tells a data set from another.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::Dataset;
use super::images::{Images, Picture};
use crate::error::{Error, Result};

impl Dataset {
    /// SHA-256 over the examples in their order, as 64 lower-case hex digits: targets; pixels of
    /// arrays; of image files, their names, the names of their folders and their bytes, so that
    /// images are not decoded and a data set may be moved.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn fingerprint(&self) -> Result<String> {
        let mut digest = Sha256::new();
        let number = |digest: &mut Sha256, x: usize| digest.update((x as u64).to_le_bytes());
        number(&mut digest, self.rows.len());
        for &row in &*self.rows {
            match &self.targets {
                Some(targets) => digest.update(targets.bytes(row, self.classes().len())?),
                None => number(&mut digest, usize::MAX),
            }
            match &*self.images {
                Images::Files(paths) => add_file(&mut digest, &paths[row])?,
                arrays => {
                    let picture = arrays.load(row)?;
                    picture.size().into_iter().for_each(|extent| number(&mut digest, extent));
                    match picture {
                        Picture::Bytes(raster) => digest.update(&raster.pixels),
                        Picture::Floats(raster) => {
                            raster.pixels.iter().for_each(|x| digest.update(x.to_le_bytes()));
                        }
                    }
                }
            }
        }
        Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// Adds what identifies a file.
fn add_file(digest: &mut Sha256, path: &Path) -> Result<()> {
    let folder = path.parent().and_then(Path::file_name);
    for name in [folder, path.file_name()].into_iter().flatten() {
        let name = name.as_encoded_bytes();
        digest.update((name.len() as u64).to_le_bytes());
        digest.update(name);
    }
    let bytes = std::fs::read(path).map_err(|e| Error::io("cannot read", path, e))?;
    digest.update((bytes.len() as u64).to_le_bytes());
    digest.update(bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ndarray::Array4;

    use super::*;
    use crate::data::fixtures::insects;

    #[test]
    fn pixels_labels_and_order_tell_data_apart() {
        let image = |changed: u8| {
            Array4::from_shape_fn((3, 2, 2, 1), |(n, y, x, _)| (4 * n + 2 * y + x) as u8 + changed)
        };
        let names = || vec!["a".to_string(), "b".to_string()];
        let data = |changed, labels: Option<&[usize]>| {
            let names = labels.map_or(Vec::new(), |_| names());
            Dataset::from_images_u8(image(changed).view(), labels, names).expect("data")
        };
        let print = |data: &Dataset| data.fingerprint().expect("in memory");
        let one = data(0, Some(&[0, 1, 0]));
        assert_eq!(print(&one), print(&data(0, Some(&[0, 1, 0]))));
        assert_eq!(print(&one).len(), 64);
        let floats = image(0).mapv(f32::from);
        let floats = floats.into_shape_with_order((3, 1, 2, 2)).expect("as many");
        let others = [
            data(1, Some(&[0, 1, 0])),
            data(0, Some(&[0, 1, 1])),
            data(0, None),
            one.subset(&[1, 0, 2]).expect("a subset"),
            one.subset(&[0, 1]).expect("a subset"),
            Dataset::from_arrays_f32(floats.view(), Some(&[0, 1, 0]), names()).expect("data"),
        ];
        for (number, other) in others.iter().enumerate() {
            assert_ne!(print(&one), print(other), "case {number}");
        }
    }

    #[test]
    fn a_folder_may_move_but_not_change() {
        let ((_first, a), (_second, b)) = (insects(), insects());
        let print = |root: &Path| Dataset::open(root).expect("opens").fingerprint();
        assert_eq!(print(&a).expect("there"), print(&b).expect("there"));
        fs::rename(b.join("bee/b1.png"), b.join("bee/b9.png")).expect("renamed");
        assert_ne!(print(&a).expect("there"), print(&b).expect("there"));
        fs::rename(b.join("bee/b9.png"), b.join("bee/b1.png")).expect("renamed");
        let mut image = fs::read(b.join("bee/b1.png")).expect("an image");
        image[40] ^= 1;
        fs::write(b.join("bee/b1.png"), image).expect("of the same size");
        assert_ne!(print(&a).expect("there"), print(&b).expect("there"));
        let gone = Dataset::open(&a).expect("opens");
        fs::remove_file(a.join("ant/a1.jpeg")).expect("removed");
        assert!(gone.fingerprint().is_err(), "a file is missing");
    }
}
