//! What came of the checks, for people and for programs.

use std::fmt;

use serde::Serialize;
use serde_json::{Value, json};

use crate::telemetry::printable;

/// How wide the column of verdicts is.
const COLUMN: usize = 9;

/// In what mends, how the database is named to a role that may change its schema.
const OWNER_URL: &str = "$OWNER_URL";

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub checks: Vec<Check>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    pub name: String,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// What was seen.
    Ok(String),
    /// It works, and somebody should look at it.
    Warning(Complaint),
    Wrong(Complaint),
    /// Why the check was not made.
    Skipped(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Complaint {
    pub what: String,
    /// The command that mends it, or what else does.
    pub mend: String,
}

impl Verdict {
    pub fn ok(seen: impl Into<String>) -> Self {
        Self::Ok(seen.into())
    }

    pub fn warning(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::Warning(Complaint {
            what: what.into(),
            mend: mend.into(),
        })
    }

    pub fn wrong(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::Wrong(Complaint {
            what: what.into(),
            mend: mend.into(),
        })
    }

    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Ok(_) => "ok",
            Self::Warning(_) => "warning",
            Self::Wrong(_) => "wrong",
            Self::Skipped(_) => "skipped",
        }
    }

    fn says(&self) -> &str {
        match self {
            Self::Ok(text) | Self::Skipped(text) => text,
            Self::Warning(complaint) | Self::Wrong(complaint) => &complaint.what,
        }
    }

    fn mend(&self) -> Option<&str> {
        match self {
            Self::Warning(complaint) | Self::Wrong(complaint) => Some(&complaint.mend),
            Self::Ok(_) | Self::Skipped(_) => None,
        }
    }
}

impl Report {
    /// Whether nothing is wrong. Warnings are not.
    pub fn is_well(&self) -> bool {
        self.count("wrong") == 0
    }

    pub fn json(&self) -> Value {
        let checks = self.checks.iter().map(|check| {
            json!({
                "check": check.name,
                "verdict": check.verdict.word(),
                "says": check.verdict.says(),
                "mend": check.verdict.mend(),
            })
        });
        json!({
            "ok": self.count("ok"),
            "warning": self.count("warning"),
            "wrong": self.count("wrong"),
            "skipped": self.count("skipped"),
            "checks": checks.collect::<Vec<_>>(),
        })
    }

    fn count(&self, word: &str) -> usize {
        let verdicts = self.checks.iter().map(|check| check.verdict.word());
        verdicts.filter(|verdict| *verdict == word).count()
    }
}

/// A line a check, and lines with what to do where that is needed; what is skipped for one reason stands together.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let same = |one: &Check, next: &Check| {
            matches!(one.verdict, Verdict::Skipped(_)) && one.verdict == next.verdict
        };
        for checks in self.checks.chunk_by(same) {
            let names: Vec<&str> = checks.iter().map(|check| check.name.as_str()).collect();
            let Some(Check { verdict, .. }) = checks.first() else {
                continue;
            };
            let (word, says) = (verdict.word(), verdict.says());
            writeln!(f, "{word:COLUMN$}{}: {}", names.join(", "), printable(says))?;
            for line in verdict.mend().iter().flat_map(|mend| mend.lines()) {
                writeln!(f, "{:COLUMN$}-> {}", "", printable(line))?;
            }
        }
        let mut mends = self.checks.iter().filter_map(|check| check.verdict.mend());
        if mends.any(|mend| mend.contains(OWNER_URL)) {
            writeln!(
                f,
                "\n{OWNER_URL}: like DATABASE_URL, but of the role that owns the tables (Supabase: postgres)"
            )?;
        }
        let counts = ["wrong", "warning", "skipped", "ok"].map(|word| (self.count(word), word));
        let told = counts.into_iter().filter(|(count, _)| *count > 0);
        let told: Vec<String> = told
            .map(|(count, word)| match (count, word) {
                (2.., "warning") => format!("{count} warnings"),
                _ => format!("{count} {word}"),
            })
            .collect();
        writeln!(f, "\n{}", told.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdicts: &[(&str, Verdict)]) -> Report {
        let check = |(name, verdict): &(&str, Verdict)| Check {
            name: (*name).to_owned(),
            verdict: verdict.clone(),
        };
        Report {
            checks: verdicts.iter().map(check).collect(),
        }
    }

    #[test]
    fn a_report_is_a_line_a_check_and_what_to_do() {
        let skipped = || Verdict::Skipped("why".to_owned());
        let report = report(&[
            ("a", Verdict::ok("fine\u{1b}[2J\nok")),
            ("b", Verdict::warning("odd", "look")),
            ("c", Verdict::wrong("bad", "psql \"$OWNER_URL\"\nand then")),
            ("d", skipped()),
            ("e", skipped()),
            ("f", Verdict::Skipped("else".to_owned())),
            ("g", Verdict::warning("odd", "look")),
        ]);
        let said = "\
ok       a: fine\u{fffd}[2J\u{fffd}ok
warning  b: odd
         -> look
wrong    c: bad
         -> psql \"$OWNER_URL\"
         -> and then
skipped  d, e: why
skipped  f: else
warning  g: odd
         -> look

$OWNER_URL: like DATABASE_URL, but of the role that owns the tables (Supabase: postgres)

1 wrong, 2 warnings, 3 skipped, 1 ok
";
        assert_eq!(report.to_string(), said);
        let json = report.json();
        assert_eq!(
            (
                &json["wrong"],
                &json["checks"][2]["check"],
                &json["checks"][0]["mend"]
            ),
            (&1.into(), &"c".into(), &Value::Null)
        );
    }

    #[test]
    fn only_what_is_wrong_makes_it_unwell() {
        let warned = report(&[("a", Verdict::warning("odd", "look"))]);
        assert!(warned.is_well() && Report::default().is_well());
        assert!(!report(&[("a", Verdict::wrong("bad", "mend"))]).is_well());
    }
}
