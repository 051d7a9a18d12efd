//! Execution providers: what ONNX Runtime computes on, by the name that a user gives.

use std::path::Path;

use ort::ep::{
    self, ArbitrarilyConfigurableExecutionProvider, ExecutionProvider, ExecutionProviderDispatch,
};

use super::caught;
use super::library::environment;
use crate::error::{Error, Result};
use crate::posterior::Provider;

/// The processor: what runs where nothing else is asked for.
pub(super) const CPU: &str = "cpu";
pub(super) const DIRECTML: &str = "directml";

type Options<'a> = &'a [(String, String)];

/// A provider that can be asked for. Whether there is one, the library that is opened says.
struct Known {
    name: &'static str,
    is_there: fn() -> ort::Result<bool>,
    /// Nothing where it takes no options, and is given some.
    build: fn(Options<'_>) -> Option<ExecutionProviderDispatch>,
}

/// Those of which a computer may have one. Azure's is none: it sends the images away.
const KNOWN: [Known; 14] = [
    plain::<ep::ACL>("acl"),
    with_options::<ep::CANN>("cann"),
    with_options::<ep::CoreML>("coreml"),
    with_options::<ep::CUDA>("cuda"),
    plain::<ep::DirectML>(DIRECTML),
    plain::<ep::MIGraphX>("migraphx"),
    plain::<ep::NNAPI>("nnapi"),
    with_options::<ep::NVRTX>("nvrtx"),
    with_options::<ep::OneDNN>("onednn"),
    with_options::<ep::OpenVINO>("openvino"),
    with_options::<ep::QNN>("qnn"),
    with_options::<ep::ROCm>("rocm"),
    with_options::<ep::TensorRT>("tensorrt"),
    with_options::<ep::XNNPACK>("xnnpack"),
];

const fn plain<P>(name: &'static str) -> Known
where
    P: ExecutionProvider + Default + Into<ExecutionProviderDispatch>,
{
    Known {
        name,
        is_there: P::is_available,
        build: |options| options.is_empty().then(|| P::default().into()),
    }
}

const fn with_options<P>(name: &'static str) -> Known
where
    P: ExecutionProvider
        + ArbitrarilyConfigurableExecutionProvider
        + Default
        + Into<ExecutionProviderDispatch>,
{
    let build = |options: Options<'_>| {
        let set = |p: P, (key, value): &(String, String)| p.with_arbitrary_config(key, value);
        Some(options.iter().fold(P::default(), set).into())
    };
    Known { name, is_there: P::is_available, build }
}

/// The names of those that `library` has.
pub(in crate::posterior::runtime) fn providers(library: &Path) -> Result<Vec<&'static str>> {
    environment(library)?;
    there()
}

/// Those that the library of this process has.
fn there() -> Result<Vec<&'static str>> {
    let mut names = vec![CPU];
    for known in &KNOWN {
        if caught("asking ONNX Runtime for its providers", known.is_there)? {
            names.push(known.name);
        }
    }
    Ok(names)
}

/// What registers a provider with a session; nothing for the processor. There is an environment.
///
/// # Errors
/// When the library has no such provider, or it takes no options.
pub(super) fn dispatch(provider: &Provider) -> Result<Option<ExecutionProviderDispatch>> {
    let Provider { name, options } = provider;
    let dispatch = match name == CPU {
        true => options.is_empty().then_some(None),
        false => {
            let there = there()?;
            let known = KNOWN.iter().find(|known| known.name == name);
            let known = known.filter(|known| there.contains(&known.name)).ok_or_else(|| {
                Error::unsupported(format!("this ONNX Runtime has no provider '{name}'"))
                    .hint(format!("it has {}", there.join(", ")))
            })?;
            // One that cannot be had is an error, and not the processor in its place.
            (known.build)(options).map(|dispatch| Some(dispatch.error_on_failure()))
        }
    };
    dispatch.ok_or_else(|| {
        let message = format!("the provider '{name}' takes no options");
        Error::invalid(message).hint("give its name alone")
    })
}
