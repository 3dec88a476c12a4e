//! The text format from before OpenMetrics, for whoever does not ask for that.
//!
//! Samples look the same in both. But a family of counters has the `_total` of its samples in its own name here, units are said nowhere
//! else, and there is no mark for the end.

/// The same, in the old format.
pub fn classic(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    let mut lines = openmetrics.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("# UNIT ") || line == "# EOF" {
            continue;
        }
        let suffix = match (line.strip_prefix("# "), lines.peek()) {
            (Some(comment), Some(next)) if comment.starts_with("HELP ") => {
                match next.ends_with(" counter") {
                    true => "_total",
                    false => "",
                }
            }
            (Some(comment), _) if comment.ends_with(" counter") => "_total",
            _ => "",
        };
        match suffix {
            "" => text.push_str(line),
            suffix => {
                let mut words = line.splitn(4, ' ');
                let mut word = || words.next().unwrap_or_default();
                let (hash, kind, name, rest) = (word(), word(), word(), word());
                text.push_str(&format!("{hash} {kind} {name}{suffix} {rest}"));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_have_their_suffix_in_their_family_s_name() {
        let openmetrics = "# HELP a_seconds About a.\n# TYPE a_seconds counter\n# UNIT a_seconds seconds\na_seconds_total 1.5\n\
             # HELP b Is no counter.\n# TYPE b gauge\nb{c=\"# HELP\"} 2\n# EOF\n";
        assert_eq!(
            classic(openmetrics),
            "# HELP a_seconds_total About a.\n# TYPE a_seconds_total counter\na_seconds_total 1.5\n\
             # HELP b Is no counter.\n# TYPE b gauge\nb{c=\"# HELP\"} 2\n"
        );
    }
}
