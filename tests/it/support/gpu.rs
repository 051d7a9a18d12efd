//! A GPU for tests: any adapter will do, one in software too.

use priorfit::backend::Backend;

/// A backend on the best adapter; without one the test is skipped, with a reason, unless
/// `PRIORFIT_REQUIRE_GPU` is 1.
#[cfg(feature = "gpu")]
pub fn gpu() -> Option<Box<dyn Backend>> {
    use std::cell::RefCell;

    use priorfit::backend::gpu::{Device, Gpu, Options};
    // A thread's backends share a device, and so its pipelines.
    thread_local!(static DEVICE: RefCell<Option<Device>> = const { RefCell::new(None) });
    DEVICE.with_borrow_mut(|device| {
        if device.is_none() {
            let open = |adapter| Device::open(&adapter, Options::default()).expect("a device");
            *device = adapter().map(open);
        }
        device.as_ref().map(|device| Box::new(Gpu::new(device)) as Box<dyn Backend>)
    })
}

/// None: this build has no GPU backend.
#[cfg(not(feature = "gpu"))]
pub fn gpu() -> Option<Box<dyn Backend>> {
    println!("skipped on the GPU: built without the feature `gpu`");
    None
}

/// The best adapter, or a reason why there is none.
#[cfg(feature = "gpu")]
pub fn adapter() -> Option<priorfit::backend::gpu::Adapter> {
    const REQUIRE: &str = "PRIORFIT_REQUIRE_GPU";
    let mut adapters = priorfit::backend::gpu::adapters().into_iter();
    let adapter = adapters.find(|adapter| adapter.qualifies().is_ok());
    if adapter.is_none() {
        let required = std::env::var(REQUIRE).is_ok_and(|value| value == "1");
        assert!(!required, "{REQUIRE} is 1, but no adapter was found");
        println!("skipped on the GPU: no adapter was found; {REQUIRE}=1 makes this a failure");
    }
    adapter
}

/// Runs `test` on this thread's GPU, which all of its cases share.
pub fn on_gpu(test: impl FnOnce(&mut dyn Backend)) {
    use std::cell::RefCell;
    thread_local!(static GPU: RefCell<Option<Box<dyn Backend>>> = RefCell::new(gpu()));
    GPU.with_borrow_mut(|gpu| {
        if let Some(gpu) = gpu {
            test(&mut **gpu);
        }
    });
}
