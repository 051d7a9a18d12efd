//! Versions: of the interface, which a compiled host depends on, and of the library.

use std::ffi::{CStr, c_char};

/// Version of this interface: it grows with every change that a compiled host would notice.
pub const PRIORFIT_ABI_VERSION: u32 = 1;

/// The version of the interface that the library was built with. Compare it with
/// PRIORFIT_ABI_VERSION, which the host was compiled with, before anything else.
#[unsafe(no_mangle)]
pub extern "C" fn priorfit_abi_version() -> u32 {
    PRIORFIT_ABI_VERSION
}

/// The version of the library, such as "1.2.3". It lives as long as the library.
#[unsafe(no_mangle)]
pub extern "C" fn priorfit_version() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => panic!("a version has no zero byte"),
        };
    VERSION.as_ptr()
}
