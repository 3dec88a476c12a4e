//! What must hold whatever bytes come in, for each place where bytes come in from others. `make fuzz` looks for bytes for which it
//! does not; `cargo test` runs the seeds in `fuzz/seeds`, so that none of this rots. In no other build.
//!
//! What is expected is written down here once more, on purpose in other words than in the code that is checked.

// A panic is how a fuzz target says that it has found something.
#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used)]

pub mod request;
pub mod source_row;
pub mod token;
pub mod url;

use serde_json::Value;

/// Whether NUL, which Postgres cannot hold, is anywhere in a value.
fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(fields) => fields
            .iter()
            .any(|(key, value)| key.contains('\0') || has_nul(value)),
        _ => false,
    }
}

/// What is stored is read again as it was.
fn assert_survives_storing(value: &Value) {
    let stored = value.to_string();
    let read: Result<Value, _> = serde_json::from_str(&stored);
    assert_eq!(read.ok().as_ref(), Some(value), "stored as {stored}");
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    fn run_seeds(target: &str, run: fn(&[u8])) {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
        let seeds = std::fs::read_dir(seeds.join(target)).expect("seeds");
        let mut count = 0;
        for seed in seeds {
            let path = seed.expect("a seed").path();
            println!("{}", path.display());
            run(&std::fs::read(path).expect("readable"));
            count += 1;
        }
        assert!(count >= 10, "{count} seeds");
    }

    #[test]
    fn seeds_of_requests() {
        run_seeds("request", super::request::run);
    }

    #[test]
    fn seeds_of_source_rows() {
        run_seeds("source_row", super::source_row::run);
    }

    #[test]
    fn seeds_of_tokens() {
        run_seeds("token", super::token::run);
    }

    #[test]
    fn seeds_of_urls() {
        run_seeds("url", super::url::run);
    }
}
