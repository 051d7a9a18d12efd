//! The C header says what the library exports: it is written anew and compared.

use std::collections::HashMap;

use cbindgen::{Builder, Config, DocumentationStyle, EnumConfig, Language, RenameRule, Style};

use crate::support::repository;

/// The sources of the C ABI, in the order of the header.
const SOURCES: [&str; 8] =
    ["version", "error", "sources", "dataset", "callback", "adaptation", "conditions", "posterior"];

/// Rust's names of types, and C's.
const NAMES: [(&str, &str); 24] = [
    ("Status", "priorfit_status"),
    ("ErrorHandle", "priorfit_error"),
    ("EngineHandle", "priorfit_engine"),
    ("ModelHandle", "priorfit_model"),
    ("PriorHandle", "priorfit_prior"),
    ("DatasetHandle", "priorfit_dataset"),
    ("JobHandle", "priorfit_job"),
    ("PosteriorHandle", "priorfit_posterior"),
    ("Element", "priorfit_element"),
    ("Layout", "priorfit_layout"),
    ("TargetType", "priorfit_target_type"),
    ("Images", "priorfit_images"),
    ("Targets", "priorfit_targets"),
    ("JobState", "priorfit_job_state"),
    ("StopCause", "priorfit_stop_cause"),
    ("RunPhase", "priorfit_run_phase"),
    ("ProgressReport", "priorfit_progress"),
    ("ProgressCallback", "priorfit_callback"),
    ("Adaptation", "priorfit_adaptation"),
    ("PowerSource", "priorfit_power"),
    ("HeatLevel", "priorfit_heat"),
    ("Presence", "priorfit_presence"),
    ("ConditionsReport", "priorfit_conditions"),
    ("Predictions", "priorfit_predictions"),
];

/// What stands at the head of the header.
const HEAD: &str = include_str!("head.h");

/// The header as the sources ask for it.
fn generated() -> String {
    let rename: HashMap<_, _> =
        NAMES.iter().map(|(rust, c)| (rust.to_string(), c.to_string())).collect();
    let mut config = Config {
        language: Language::C,
        header: Some(HEAD.trim_end().to_string()),
        include_guard: Some("PRIORFIT_H".to_string()),
        no_includes: true,
        sys_includes: ["stdbool.h", "stddef.h", "stdint.h"].map(str::to_string).to_vec(),
        cpp_compat: true,
        style: Style::Both,
        documentation_style: DocumentationStyle::C99,
        usize_is_size_t: true,
        line_length: 100,
        tab_width: 4,
        enumeration: EnumConfig {
            rename_variants: RenameRule::QualifiedScreamingSnakeCase,
            ..EnumConfig::default()
        },
        ..Config::default()
    };
    config.export.rename = rename;
    // What C passes as a plain number has no place in a signature.
    let numbers = ["Element", "Layout", "TargetType", "PowerSource", "HeatLevel", "Presence"];
    config.export.include = numbers.map(str::to_string).to_vec();
    let builder = SOURCES.iter().fold(Builder::new().with_config(config), |builder, source| {
        builder.with_src(repository(&format!("src/capi/{source}.rs")))
    });
    let mut text = Vec::new();
    builder.generate().expect("sources that cbindgen reads").write(&mut text);
    String::from_utf8(text).expect("a text")
}

#[test]
fn the_header_is_that_of_the_sources() {
    let path = repository("include/priorfit.h");
    let text = generated();
    if std::env::var_os("PRIORFIT_WRITE_HEADER").is_some() {
        std::fs::write(&path, &text).expect("a header");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == text,
        "include/priorfit.h is not what src/capi/ declares; write it with \
         `PRIORFIT_WRITE_HEADER=1 cargo test --release --test it the_header_is`"
    );
}
