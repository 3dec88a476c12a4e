//! `/metrics` as a scraper reads it, in both formats, and what is to be said against it: promtool's rules, and some of ours.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::eventually;
use super::worker::exchange;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    OpenMetrics,
    Classic,
}

#[derive(Debug, Clone, Default)]
pub struct Exposition {
    pub families: Vec<Family>,
}

#[derive(Debug, Clone, Default)]
pub struct Family {
    /// As its samples are called, but for the suffixes of histograms.
    pub name: String,
    pub kind: String,
    pub help: String,
    pub unit: Option<String>,
    pub samples: Vec<Sample>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// Asks for it in this format.
pub async fn scrape(admin: SocketAddr, format: Format) -> String {
    let accept = match format {
        // As Prometheus 2 sends it.
        Format::OpenMetrics => {
            "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
        }
        Format::Classic => "*/*",
    };
    let bytes = format!(
        "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\naccept: {accept}\r\n\r\n"
    );
    let (status, head, text) = exchange(admin, &bytes).await;
    let kind = match format {
        Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        Format::Classic => "text/plain; version=0.0.4; charset=utf-8",
    };
    assert_eq!(status, 200, "{head}");
    assert!(
        head.contains(&format!("\r\ncontent-type: {kind}\r\n")),
        "{head}"
    );
    text
}

impl Exposition {
    pub fn parse(text: &str, format: Format) -> Result<Self, String> {
        let mut all = Self::default();
        for line in text.lines().filter(|line| *line != "# EOF") {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            match words.as_slice() {
                ["#", "HELP", name, help] => all.families.push(Family {
                    name: (*name).to_owned(),
                    help: (*help).to_owned(),
                    ..Family::default()
                }),
                ["#", what @ ("TYPE" | "UNIT"), name, value] => {
                    let family = all.families.last_mut();
                    let family = family.filter(|family| family.name == *name);
                    let family = family.ok_or(format!("not in its family: {line}"))?;
                    match *what {
                        "TYPE" => family.kind = (*value).to_owned(),
                        _ => family.unit = Some((*value).to_owned()),
                    }
                }
                ["#", ..] => return Err(format!("a comment: {line}")),
                _ => {
                    let family = all.families.last_mut();
                    let family = family.ok_or(format!("no family: {line}"))?;
                    family.samples.push(sample(line)?);
                }
            }
        }
        if format == Format::OpenMetrics {
            for family in &mut all.families {
                if family.kind == "counter" {
                    family.name.push_str("_total");
                }
            }
        }
        Ok(all)
    }

    /// What a sample of this name says that has these labels, or all that have them together. `None`: there is none.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let samples = self.families.iter().flat_map(|family| &family.samples);
        let has = |sample: &&Sample| {
            let has = |(name, value): &(&str, &str)| {
                sample.labels.get(*name).is_some_and(|label| label == value)
            };
            sample.name == name && labels.iter().all(has)
        };
        let values: Vec<f64> = samples.filter(has).map(|sample| sample.value).collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    pub fn names(&self) -> BTreeSet<String> {
        self.families
            .iter()
            .map(|family| family.name.clone())
            .collect()
    }

    /// The families of which a sample that was there before says something else, or a counter has begun.
    fn moved_since(&self, before: &Self) -> BTreeSet<String> {
        let before: BTreeMap<String, f64> = before.series().collect();
        let moved = |family: &&Family| {
            family.samples.iter().any(|sample| {
                match (before.get(&series(sample)), family.kind.as_str()) {
                    (Some(value), _) => *value != sample.value,
                    (None, "gauge") => false,
                    (None, _) => sample.value > 0.0,
                }
            })
        };
        let moved = self.families.iter().filter(moved);
        moved.map(|family| family.name.clone()).collect()
    }

    fn series(&self) -> impl Iterator<Item = (String, f64)> {
        let samples = self.families.iter().flat_map(|family| &family.samples);
        samples.map(|sample| (series(sample), sample.value))
    }
}

/// Name and labels.
fn series(sample: &Sample) -> String {
    format!("{}{:?}", sample.name, sample.labels)
}

fn sample(line: &str) -> Result<Sample, String> {
    let bad = || format!("no sample: {line}");
    let (series, value) = line.rsplit_once(' ').ok_or_else(bad)?;
    let (name, labels) = match series.split_once('{') {
        None => (series, ""),
        Some((name, labels)) => (name, labels.strip_suffix('}').ok_or_else(bad)?),
    };
    let mut parsed = BTreeMap::new();
    for label in labels.split(',').filter(|label| !label.is_empty()) {
        let (key, value) = label.split_once('=').ok_or_else(bad)?;
        let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
        let value = value.ok_or_else(bad)?.to_owned();
        if parsed.insert(key.to_owned(), value).is_some() {
            return Err(format!("a label twice: {line}"));
        }
    }
    Ok(Sample {
        name: name.to_owned(),
        labels: parsed,
        value: value.parse().map_err(|_| bad())?,
    })
}

/// What is to be said against it. `labels`: those that there may be, and their values; `None`: a status.
pub fn lint(text: &str, format: Format, labels: &[(&str, Option<&[&str]>)]) -> Vec<String> {
    let all = match Exposition::parse(text, format) {
        Ok(all) => all,
        Err(problem) => return vec![problem],
    };
    let mut problems = Vec::new();
    if (format == Format::OpenMetrics) != text.ends_with("\n# EOF\n") {
        problems.push("EOF is there, or is not, where it should not, or should".to_owned());
    }
    let (mut names, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for family in &all.families {
        if !names.insert(&family.name) {
            problems.push(format!("{}: a family twice", family.name));
        }
        problems.extend(against(family, format));
        for sample in &family.samples {
            let line = series(sample);
            problems.extend(belongs(family, sample));
            problems.extend(bounded(sample, labels));
            if !sample.value.is_finite() || (family.kind != "gauge" && sample.value < 0.0) {
                problems.push(format!("{line}: {}", sample.value));
            }
            if !seen.insert(line.clone()) {
                problems.push(format!("{line}: a series twice"));
            }
        }
        if family.kind == "histogram" {
            problems.extend(whole(family));
        }
    }
    problems
}

/// Names, help, type and unit.
fn against(family: &Family, format: Format) -> Vec<String> {
    let Family {
        name,
        kind,
        help,
        unit,
        samples,
    } = family;
    let mut problems = Vec::new();
    let mut expect = |is_so: bool, problem: &str| {
        if !is_so {
            problems.push(format!("{name}: {problem}"));
        }
    };
    let rest = name.strip_prefix("agent_sync_").unwrap_or_default();
    let is_plain = |c: char| c.is_ascii_lowercase() || c == '_';
    expect(
        !rest.is_empty() && rest.chars().all(is_plain) && !rest.contains("__"),
        "a name is agent_sync_ and lower case",
    );
    expect(!samples.is_empty(), "no samples");
    expect(
        help.len() > 10 && help.ends_with('.') && !help.ends_with(".."),
        "help is a sentence",
    );
    expect(
        ["counter", "gauge", "histogram"].contains(&kind.as_str()),
        "no type that old and new scrapers know",
    );
    expect(
        (kind == "counter") == name.ends_with("_total"),
        "counters end in _total, and nothing else does",
    );
    let words: Vec<&str> = rest.split('_').collect();
    let reserved = [
        "counter",
        "gauge",
        "histogram",
        "summary",
        "bucket",
        "count",
        "sum",
    ];
    expect(
        !words.iter().any(|word| reserved.contains(word)),
        "a type or a suffix in the name",
    );
    let no_base = [
        "ms",
        "milliseconds",
        "microseconds",
        "nanoseconds",
        "minutes",
        "hours",
        "days",
        "kb",
        "mb",
        "kilobytes",
        "megabytes",
        "kibibytes",
        "bits",
        "percent",
        "millis",
        "micros",
        "s",
        "b",
    ];
    expect(
        !words.iter().any(|word| no_base.contains(word)),
        "a unit that is no base unit, or an abbreviation",
    );
    let named = name.strip_suffix("_total").unwrap_or(name);
    let named = ["seconds", "bytes"]
        .into_iter()
        .find(|unit| named.ends_with(&format!("_{unit}")));
    if format == Format::OpenMetrics {
        expect(unit.as_deref() == named, "the unit is not the name's");
    }
    problems
}

/// Whether a sample is one of its family's.
fn belongs(family: &Family, sample: &Sample) -> Option<String> {
    let suffix = sample.name.strip_prefix(&family.name);
    let has_le = sample.labels.contains_key("le");
    let is_so = match (family.kind.as_str(), suffix) {
        ("histogram", Some("_bucket")) => has_le,
        ("histogram", Some("_sum" | "_count")) => !has_le,
        ("histogram", _) => false,
        (_, suffix) => suffix == Some("") && !has_le,
    };
    (!is_so).then(|| format!("{}: not of family {}", series(sample), family.name))
}

/// Whether its labels are known ones, with values of which there are few.
fn bounded(sample: &Sample, known: &[(&str, Option<&[&str]>)]) -> Option<String> {
    sample
        .labels
        .iter()
        .filter(|(name, _)| *name != "le")
        .find_map(|(name, value)| {
            let is_known = match known.iter().find(|(known, _)| known == name) {
                Some((_, Some(values))) => values.contains(&value.as_str()),
                Some((_, None)) => value.len() == 3 && value.parse::<u16>().is_ok(),
                None => false,
            };
            (!is_known).then(|| format!("{}: the label {name}=\"{value}\"", series(sample)))
        })
}

/// Whether each histogram of a family has all its parts, and they fit.
fn whole(family: &Family) -> Vec<String> {
    /// Buckets, sum, count.
    type Parts = (Vec<(f64, f64)>, Option<f64>, Option<f64>);
    let mut parts: BTreeMap<String, Parts> = BTreeMap::new();
    for sample in &family.samples {
        let mut labels = sample.labels.clone();
        let le = labels.remove("le");
        let (buckets, sum, count) = parts
            .entry(format!("{}{labels:?}", family.name))
            .or_default();
        match le {
            Some(le) => buckets.push((
                le.replace("+Inf", "inf").parse().unwrap_or(f64::NAN),
                sample.value,
            )),
            None if sample.name.ends_with("_sum") => *sum = Some(sample.value),
            None => *count = Some(sample.value),
        }
    }
    let mut problems = Vec::new();
    for (name, (buckets, sum, count)) in parts {
        let grows = buckets
            .windows(2)
            .all(|two| two[0].0 < two[1].0 && two[0].1 <= two[1].1);
        let ends = buckets
            .last()
            .is_some_and(|(le, value)| le.is_infinite() && Some(*value) == count);
        if !grows || !ends || sum.is_none() {
            problems.push(format!("{name}: no whole histogram"));
        }
    }
    problems
}

async fn look(admin: SocketAddr) -> Exposition {
    let text = scrape(admin, Format::Classic).await;
    Exposition::parse(&text, Format::Classic).expect("an exposition")
}

/// Looks at a worker's metrics again and again, and keeps in mind which of them have moved.
pub struct Watch {
    admin: SocketAddr,
    first: Exposition,
    last: Exposition,
    pub moved: BTreeSet<String>,
    pub seen: BTreeSet<String>,
}

impl Watch {
    pub async fn begin(admin: SocketAddr) -> Self {
        let now = look(admin).await;
        Self {
            admin,
            first: now.clone(),
            seen: now.names(),
            last: now,
            moved: BTreeSet::new(),
        }
    }

    /// How it is now.
    pub async fn look(&mut self) -> Exposition {
        let now = look(self.admin).await;
        self.moved.extend(now.moved_since(&self.first));
        self.moved.extend(now.moved_since(&self.last));
        self.seen.extend(now.names());
        self.last = now.clone();
        now
    }

    /// Looks until this is so.
    pub async fn until(&mut self, what: &str, is_so: impl Fn(&Exposition) -> bool) -> Exposition {
        let (watch, is_so) = (tokio::sync::Mutex::new(&mut *self), &is_so);
        eventually(what, || async {
            let now = watch.lock().await.look().await;
            is_so(&now).then_some(()).ok_or_else(|| {
                let all: Vec<String> = now
                    .series()
                    .map(|(name, value)| format!("{name} {value}"))
                    .collect();
                all.join("\n")
            })
        })
        .await;
        self.last.clone()
    }

    /// Looks until these samples together say so.
    pub async fn shows(&mut self, name: &str, labels: &[(&str, &str)], value: f64) -> Exposition {
        self.until(&format!("{name}{labels:?} is {value}"), |now| {
            now.value(name, labels) == Some(value)
        })
        .await
    }
}
