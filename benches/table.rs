//! The table of all that was measured last, from what each benchmark has written to `target/bench/`. `make bench` ends with it.
//!
//! Prints it as Markdown, and writes it as JSON to `target/bench/table.json`.

use std::error::Error;
use std::fs;
use std::path::Path;

use serde_json::Value;

/// In this order.
const BENCHES: [&str; 5] = ["passes", "edits", "requests", "editors", "rest"];

fn main() -> Result<(), Box<dyn Error>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    let mut lines: Vec<Value> = Vec::new();
    for bench in BENCHES {
        let path = directory.join(format!("{bench}.json"));
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        lines.append(&mut serde_json::from_str(&text)?);
    }
    println!("\n| work | ours | floor | figure | target | |");
    println!("|---|---:|---:|---:|---:|---|");
    for line in &lines {
        let text = |name: &str| line[name].as_str().unwrap_or("–");
        let figure = line["figure"].as_f64();
        println!(
            "| {} | {} | {} | {} | {} | {} |",
            text("work"),
            text("ours"),
            text("floor"),
            figure.map_or("–".to_owned(), |figure| format!("{figure:.2}")),
            text("target"),
            match line["met"].as_bool() {
                Some(true) => "met",
                Some(false) => "missed",
                None => "",
            }
        );
    }
    fs::write(
        directory.join("table.json"),
        serde_json::to_string_pretty(&lines)?,
    )?;
    Ok(())
}
