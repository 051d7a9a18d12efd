//! Name patterns.

/// Whether `name` matches `pattern`, in which `*` stands for any run of characters.
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_stand_for_any_run() {
        for (pattern, name) in [
            ("*", ""),
            ("*", "layer1.0.conv1.weight"),
            ("layer1.*", "layer1.0.conv1.weight"),
            ("*.bias", "stem.bias"),
            ("layer*.conv*.weight", "layer1.0.conv1.weight"),
            ("a*a", "aa"),
            ("exact", "exact"),
        ] {
            assert!(matches(pattern, name), "{pattern} matches {name}");
        }
        for (pattern, name) in
            [("a*a", "a"), ("layer1.*", "layer10.weight"), ("exact", "exactly"), ("", "a")]
        {
            assert!(!matches(pattern, name), "{pattern} does not match {name}");
        }
    }
}
