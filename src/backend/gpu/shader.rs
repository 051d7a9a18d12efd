//! Shader sources: files of `shaders/`, with what they include and what a variant adds.

use crate::error::{Error, Result};

/// A shader or a part of one: its name, which is its file's stem, and its text.
type Source = (&'static str, &'static str);

macro_rules! sources {
    ($folder:literal: $($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../../shaders/", $folder, $name, ".wgsl")))),*]
    };
}

/// One shader for each kernel, and what a kernel has beside.
pub(super) const SHADERS: [Source; 21] = sources!(
    "": "concat", "conv2d", "conv2d_filter_grad", "conv2d_input_grad", "depthwise",
    "depthwise_filter_grad", "gather", "log_softmax", "map", "matmul", "max_pool",
    "max_pool_grad", "pad", "reduce", "scatter_add", "slice", "softmax", "sum_pool",
    "sum_pool_grad", "transpose", "update",
);

/// What several shaders include.
const SHARED: [Source; 24] = sources!(
    "shared/": "across", "add_up", "add_up_subgroups", "along", "blocks", "compensated",
    "convolution", "elements", "grid", "image_elements", "image_vectors", "indexed", "matrix",
    "part", "philox", "quads", "rows", "space", "strided", "tiles", "tiles_cooperative", "tiling",
    "vectors", "window",
);

/// Where a shader takes in the text of its variant.
const INSERTIONS: [&str; 3] = ["//!tape", "//!epilogue", "//!variant"];

/// The whole text of a shader with `variant` where it asks for one.
///
/// # Errors
/// When there is no such shader or part: a bug.
pub(super) fn assemble(name: &str, variant: &str) -> Result<String> {
    let mut text = String::new();
    append(find(&SHADERS, name)?, variant, &mut text)?;
    // Extensions are enabled before anything is declared.
    let is_enabling = |line: &&str| line.starts_with("enable ");
    let enabling: String =
        text.lines().filter(is_enabling).map(|line| format!("{line}\n")).collect();
    let rest = text.lines().filter(|line| !is_enabling(line));
    Ok(enabling + &rest.map(|line| format!("{line}\n")).collect::<String>())
}

/// A part that shaders include, with its own includes.
#[cfg(test)]
pub(super) fn part(name: &str) -> Result<String> {
    let mut text = String::new();
    append(find(&SHARED, name)?, "", &mut text)?;
    Ok(text)
}

fn find(sources: &[Source], name: &str) -> Result<&'static str> {
    let found = sources.iter().find(|(known, _)| *known == name);
    found.map(|(_, text)| *text).ok_or_else(|| Error::internal(format!("no shader '{name}'")))
}

fn append(source: &str, variant: &str, text: &mut String) -> Result<()> {
    for line in source.lines() {
        if let Some(include) = line.strip_prefix("//!include ") {
            // A part that is written for an operand `_x` may be included for each of several.
            match include.split_once(" for ") {
                Some((part, operand)) => {
                    append(&find(&SHARED, part)?.replace("_x", operand), "", text)?;
                }
                None => append(find(&SHARED, include)?, "", text)?,
            }
        } else if INSERTIONS.contains(&line) {
            append(variant, "", text)?;
        } else {
            text.push_str(line);
        }
        text.push('\n');
    }
    Ok(())
}
