//! What the study is made from: a backbone, its prior, images.

use std::path::Path;
use std::sync::Arc;

use priorfit::adapt::{Control, SourceSettings, fit_prior};
use priorfit::data::{Augment, Crop, Dataset, Flip, Preprocess, Resize, Statistics};
use priorfit::error::{Context, Error, Result};
use priorfit::onnx::{Dim, Model};
use priorfit::prior::Prior;
use priorfit::threads::Threads;

use crate::Args;

/// Images of one kind of target, to train on and to measure on.
pub struct Images {
    pub model: Arc<Model>,
    /// Labels are drawn from it.
    pub pool: Dataset,
    /// None to measure on what is not drawn.
    pub test: Option<Dataset>,
    /// Channels, height and width that the backbone is given.
    pub extent: [usize; 3],
    /// None for those of the images that are drawn.
    pub statistics: Option<Statistics>,
    /// At most this many are measured on.
    most: usize,
}

impl Images {
    /// `shots` examples of each class, or images with masks, and those to measure on.
    pub fn draw(&self, seed: u64, shots: usize) -> Result<(Dataset, Dataset)> {
        let (train, rest) = self.pool.few(seed, shots)?;
        let measured = self.test.clone().unwrap_or(rest);
        Ok((train, first(&measured, self.most)?))
    }

    /// How images become the backbone's input.
    pub fn preprocess(&self, train: &Dataset, threads: &Threads) -> Result<Preprocess> {
        let [channels, height, width] = self.extent;
        let plain = Preprocess::new(channels, height, width);
        let plain = Preprocess { resize: Resize::Stretch, ..plain };
        let statistics = match &self.statistics {
            Some(statistics) => statistics.clone(),
            None => plain.statistics(train, threads)?,
        };
        Ok(plain.normalised(statistics))
    }
}

/// Everything that is read.
pub struct Material {
    pub images: Images,
    /// Other images of the same classes.
    pub shift: Option<Dataset>,
    pub masks: Option<Images>,
    pub prior: Option<Prior>,
}

impl Material {
    /// Opens all files, and fits the prior if that has not been done.
    pub fn open(args: &Args) -> Result<Self> {
        let open = |path: &Path| Dataset::open(path).context(|| path.display().to_string());
        let pool = open(&args.train)?;
        let [height, width] = pool.size(0)?;
        let model = Model::load(&args.backbone)?.cut_at_features(None)?;
        let statistics = args.statistics();
        let channels = statistics.as_ref().map_or(3, |statistics| statistics.mean.len());
        let images = Images {
            extent: extent(&model, [channels, height, width]),
            model: Arc::new(model),
            pool,
            test: args.test.as_deref().map(open).transpose()?,
            statistics: statistics.clone(),
            most: args.images,
        };
        let shift = args.shift.as_deref().map(open).transpose()?;
        let shift = shift.map(|data| first(&data, args.images)).transpose()?;
        let masks = args.masks.as_deref().map(|path| masks(args, path, channels)).transpose()?;
        let prior = prior(args, &images)?;
        Ok(Material { images, shift, masks, prior })
    }
}

/// What the file fixes of its input, and else `default`.
fn extent(model: &Model, default: [usize; 3]) -> [usize; 3] {
    let dims = model.inputs().first().and_then(|input| input.dims.as_deref()).unwrap_or(&[]);
    std::array::from_fn(|axis| match dims.get(axis + 1) {
        Some(Dim::Fixed(fixed)) => *fixed,
        _ => default[axis],
    })
}

/// Images with masks, of the size that is asked for or their own.
fn masks(args: &Args, path: &Path, channels: usize) -> Result<Images> {
    let open = |path: &Path| {
        let data = Dataset::open(path).context(|| path.display().to_string())?;
        args.ignore.map_or(Ok(data.clone()), |index| data.with_ignored(index))
    };
    let pool = open(path)?;
    let [height, width] = match args.mask_size[..] {
        [height, width] => [height, width],
        _ => pool.size(0)?,
    };
    Ok(Images {
        model: Arc::new(Model::load(&args.backbone)?.cut_at_map(None)?),
        pool,
        test: args.masks_test.as_deref().map(open).transpose()?,
        extent: [channels, height, width],
        statistics: args.statistics(),
        most: args.images,
    })
}

/// The prior of its file, or fitted to the source's data and kept for the next time.
fn prior(args: &Args, images: &Images) -> Result<Option<Prior>> {
    let kept = args.work.join("prior.safetensors");
    match (&args.prior, &args.source) {
        (Some(path), _) => Prior::load(path).map(Some),
        (None, Some(_)) if kept.exists() => Prior::load(&kept).map(Some),
        (None, Some(path)) => {
            let threads = Arc::new(Threads::available());
            let data = Dataset::open(path).context(|| path.display().to_string())?;
            let data = first(&data, args.source_images)?;
            let preprocess = images.preprocess(&data, &threads)?;
            let settings = SourceSettings {
                epochs: 2,
                burn_in: 1,
                snapshots: 12,
                rank: 10,
                learning_rate: 0.02,
                augment: Augment { flip: Flip::Horizontal, crop: Crop::Padded { pixels: 4 } },
                ..SourceSettings::default()
            };
            let prior = fit_source(images, preprocess, &data, &settings, threads)?;
            prior.save(&kept)?;
            Ok(Some(prior))
        }
        (None, None) => Ok(None),
    }
}

fn fit_source(
    images: &Images,
    preprocess: Preprocess,
    data: &Dataset,
    settings: &SourceSettings,
    threads: Arc<Threads>,
) -> Result<Prior> {
    let mut told = None;
    fit_prior(&images.model, data, &preprocess, settings, threads, &mut |progress| {
        let tenth = (progress.phase, progress.step * 10 / progress.steps.max(1));
        if told.replace(tenth) != Some(tenth) {
            eprintln!("prior: {:?} {}/{}", progress.phase, progress.step, progress.steps);
        }
        Control::Continue
    })
}

/// The first `most` examples.
fn first(data: &Dataset, most: usize) -> Result<Dataset> {
    match data.is_empty() {
        true => Err(Error::invalid("no example is left to measure on").hint("lower --shots")),
        false => data.subset(&(0..data.len().min(most)).collect::<Vec<_>>()),
    }
}
