//! What a benchmark has measured: printed line by line as it comes, and written as JSON for the table of them all.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

/// One figure, and what it is compared with in the same run.
#[derive(Debug, Clone)]
pub struct Line {
    /// What is done, and which measure of it this is.
    pub work: String,
    /// As measured, with its unit.
    pub ours: String,
    /// What the same Postgres does for the bare minimum of the work.
    pub floor: Option<String>,
    /// Ours in terms of the floor; without a floor, ours in the unit of the target.
    pub figure: Option<f64>,
    pub target: Option<Target>,
}

/// What a figure must be.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
}

impl Target {
    fn is_met(self, figure: f64) -> bool {
        match self {
            Self::AtMost(most) => figure <= most,
            Self::AtLeast(least) => figure >= least,
        }
    }

    fn word(self) -> String {
        match self {
            Self::AtMost(most) => format!("≤ {most}"),
            Self::AtLeast(least) => format!("≥ {least}"),
        }
    }
}

/// The figures of one benchmark.
#[derive(Debug)]
pub struct Report {
    bench: &'static str,
    lines: Vec<Value>,
}

impl Report {
    pub fn new(bench: &'static str) -> Self {
        println!(
            "\n{:<58} {:>16} {:>16} {:>8}   target",
            bench, "ours", "floor", "figure"
        );
        Self {
            bench,
            lines: Vec::new(),
        }
    }

    /// Prints it, and keeps it.
    pub fn line(&mut self, line: Line) {
        let met = line
            .target
            .zip(line.figure)
            .map(|(target, figure)| target.is_met(figure));
        println!(
            "{:<58} {:>16} {:>16} {:>8}   {}{}",
            line.work,
            line.ours,
            line.floor.as_deref().unwrap_or("–"),
            line.figure
                .map_or("–".to_owned(), |figure| format!("{figure:.2}")),
            line.target.map_or("–".to_owned(), Target::word),
            if met == Some(false) { "   MISSED" } else { "" },
        );
        self.lines.push(json!({
            "bench": self.bench,
            "work": line.work,
            "ours": line.ours,
            "floor": line.floor,
            "figure": line.figure,
            "target": line.target.map(Target::word),
            "met": met,
        }));
    }

    /// Writes `target/bench/<name>.json`.
    pub fn finish(self) -> std::io::Result<()> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
        fs::create_dir_all(&directory)?;
        let json = serde_json::to_string_pretty(&self.lines)?;
        fs::write(directory.join(format!("{}.json", self.bench)), json)
    }
}
