//! What `--dry-run` says on standard output: agent by agent as it goes, field by field, and at the end how many of what; with `--json` one
//! document. Agents that are as they should be are only counted.

use std::ops::ControlFlow;

use serde_json::{Value, json};

use super::report::{BUSY, Document, print};
use crate::diff::{self, Diff, Field, quoted};
use crate::ids::SYSTEM;
use crate::removals::Objection;
use crate::syncer::{Change, Forecast, Outcome, Preview, Verb};

/// Up to how many characters the two sides of a field stand in one line.
const LINE: usize = 80;

pub(super) struct Plan {
    document: Option<Document>,
    /// Just some agents: even if there is nothing to do, that is said of each.
    is_named: bool,
    /// What agent-sync needs is in the database.
    pub installed: bool,
    counts: Counts,
    has_unknown: bool,
    objection: Option<Objection>,
    is_cut_off: bool,
}

#[derive(Default)]
struct Counts {
    create: usize,
    update: usize,
    remove: usize,
    unchanged: usize,
    conflict: usize,
    held: usize,
    failed: usize,
}

impl Plan {
    pub fn begin(json: bool, is_named: bool) -> Self {
        Self {
            document: json.then(Document::begin),
            is_named,
            installed: true,
            counts: Counts::default(),
            has_unknown: false,
            objection: None,
            is_cut_off: false,
        }
    }

    /// Whether everything would end well.
    pub fn is_well(&self) -> bool {
        self.counts.failed + self.counts.held == 0 && !self.has_unknown
    }

    /// Whether nobody reads it any more.
    pub fn is_cut_off(&self) -> bool {
        self.is_cut_off
    }

    pub fn tell(&mut self, preview: Preview) -> ControlFlow<()> {
        let Preview {
            mut forecasts,
            objection,
        } = preview;
        self.objection = self.objection.or(objection);
        forecasts.sort_by_key(|forecast| forecast.agent);
        for forecast in &forecasts {
            self.counts.add(&forecast.outcome);
            self.has_unknown |= self.is_named && !forecast.is_known;
            let is_told = match forecast.outcome {
                Outcome::Nothing => self.is_named,
                Outcome::Skipped => self.is_named || forecast.write_back.is_some(),
                _ => true,
            };
            if !is_told {
                continue;
            }
            let is_read = match &mut self.document {
                Some(document) => {
                    document.add(&in_json(forecast));
                    document.is_read
                }
                None => print(&in_words(forecast)),
            };
            if !is_read {
                self.is_cut_off = true;
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    pub fn so_far(&self) -> [(usize, &'static str); 7] {
        let Counts {
            create,
            update,
            remove,
            unchanged,
            conflict,
            held,
            failed,
        } = self.counts;
        [
            (create, "to create"),
            (update, "to update"),
            (remove, "to remove"),
            (unchanged, "unchanged"),
            (conflict, "in conflict"),
            (held, "held"),
            (failed, "failing"),
        ]
    }

    /// `error`: why it did not come to its end.
    pub fn end(&mut self, error: Option<&str>) {
        let held = self.objection.as_ref().map(Objection::to_string);
        match self.document.take() {
            Some(document) => {
                let Counts {
                    create,
                    update,
                    remove,
                    unchanged,
                    conflict,
                    held: holds,
                    failed,
                } = self.counts;
                document.end(&[
                    (
                        "summary",
                        json!({
                            "create": create, "update": update, "remove": remove, "unchanged": unchanged, "conflict": conflict,
                            "held": holds, "failed": failed,
                        }),
                    ),
                    ("held_because", json!(held)),
                    ("installed", json!(self.installed)),
                    ("error", json!(error)),
                ]);
            }
            None if error.is_some() => {}
            None => {
                if let Some(held) = held {
                    print(&format!("Held: {held}."));
                }
                // What is to be done is told, even if that is nothing.
                let told = self.so_far().into_iter().enumerate();
                let told = told.filter(|(n, (count, _))| *n < 4 || *count > 0);
                let told: Vec<String> = told
                    .map(|(_, (count, of))| format!("{count} {of}"))
                    .collect();
                print(&format!("Plan: {}.", told.join(", ")));
            }
        }
    }
}

impl Counts {
    fn add(&mut self, outcome: &Outcome) {
        *match outcome {
            Outcome::Created => &mut self.create,
            Outcome::Updated => &mut self.update,
            Outcome::Removed | Outcome::Revoked => &mut self.remove,
            Outcome::Skipped => &mut self.unchanged,
            Outcome::Conflict => &mut self.conflict,
            Outcome::Held => &mut self.held,
            Outcome::Failed(_) | Outcome::Busy => &mut self.failed,
            Outcome::Nothing => return,
        } += 1;
    }
}

/// What a sync would come to, as an imperative; and the sign before it.
fn action(outcome: &Outcome) -> (&'static str, char) {
    match outcome {
        Outcome::Created => ("create", '+'),
        Outcome::Updated => ("update", '~'),
        Outcome::Removed | Outcome::Revoked => ("remove", '-'),
        Outcome::Skipped => ("unchanged", '='),
        Outcome::Held => ("held", '!'),
        Outcome::Conflict => ("conflict", '!'),
        Outcome::Failed(_) | Outcome::Busy => ("failed", '!'),
        Outcome::Nothing => ("nothing", '='),
    }
}

fn of_verb(verb: Verb) -> (&'static str, char) {
    match verb {
        Verb::Create => ("create", '+'),
        Verb::Update => ("update", '~'),
        Verb::Remove => ("remove", '-'),
        Verb::Hold => ("held", '!'),
        Verb::Conflict => ("conflict", '!'),
    }
}

fn error(outcome: &Outcome) -> Option<&str> {
    match outcome {
        Outcome::Failed(error) => Some(error),
        Outcome::Busy => Some(BUSY),
        _ => None,
    }
}

fn in_json(forecast: &Forecast) -> Value {
    let assistant = |change: &Change| {
        json!({
            "assistant_id": change.assistant,
            "owner": change.owner,
            "action": of_verb(change.verb).0,
            "why": change.why,
            "fields": change.diff.fields,
            "more_fields": change.diff.more,
        })
    };
    json!({
        "agent_id": forecast.agent,
        "name": forecast.name,
        "action": action(&forecast.outcome).0,
        "why": forecast.why,
        "error": error(&forecast.outcome),
        "assistants": forecast.changes.iter().map(assistant).collect::<Vec<_>>(),
        "more_assistants": forecast.more,
        "langgraph_assistant_id": forecast.write_back,
    })
}

fn in_words(forecast: &Forecast) -> String {
    let (action, sign) = match action(&forecast.outcome) {
        (action, _) if !forecast.is_known => (action, '!'),
        known => known,
    };
    let mut lines = vec![format!("{sign} agent {}", forecast.agent)];
    let mut first = |part: String| lines[0].push_str(&part);
    if let Some(name) = &forecast.name {
        first(format!(" {}", quoted(name)));
    }
    match (
        &forecast.outcome,
        error(&forecast.outcome).or(forecast.why.as_deref()),
    ) {
        (Outcome::Nothing, why) => first(format!(": {}", why.unwrap_or(action))),
        (_, None) => first(format!(": {action}")),
        (_, Some(why)) => first(format!(": {action} ({})", diff::in_line(why))),
    }
    // Most have one, which has the agent's id and is everybody's.
    let is_plain =
        |change: &Change| change.assistant == forecast.agent.canonical() && change.owner == SYSTEM;
    let is_only = forecast.more == 0 && forecast.changes.len() == 1;
    for change in &forecast.changes {
        let (verb, sign) = of_verb(change.verb);
        match is_only && is_plain(change) && change.verb != Verb::Conflict {
            true => lines.extend(change.why.as_ref().map(|why| format!("    ({why})"))),
            false => {
                let why = change
                    .why
                    .as_ref()
                    .map(|why| format!(" ({why})"))
                    .unwrap_or_default();
                let (id, owner) = (change.assistant, quoted(&change.owner));
                lines.push(format!("    {sign} assistant {id} of {owner}: {verb}{why}"));
            }
        }
        fields(&change.diff, &mut lines);
    }
    if forecast.more > 0 {
        lines.push(format!(
            "    … and {} more assistants of this agent",
            forecast.more
        ));
    }
    if let Some(id) = forecast.write_back {
        lines.push(format!(
            "      ~ public.agents.langgraph_assistant_id: \"{id}\""
        ));
    }
    lines.join("\n")
}

fn fields(diff: &Diff, lines: &mut Vec<String>) {
    for Field {
        path,
        before,
        after,
        hidden,
    } in &diff.fields
    {
        let side = |value: &Option<Value>| value.as_ref().map(shown);
        lines.push(match (side(before), side(after)) {
            (Some(before), _) if *hidden => {
                format!("      ~ {path}: {before} (what has changed is not shown)")
            }
            (Some(before), Some(after))
                if before.chars().count() + after.chars().count() <= LINE =>
            {
                format!("      ~ {path}: {before} → {after}")
            }
            (Some(before), Some(after)) => {
                format!("      ~ {path}:\n          {before}\n        → {after}")
            }
            (None, Some(after)) => format!("      + {path}: {after}"),
            (Some(before), None) => format!("      - {path}: {before}"),
            (None, None) => continue,
        });
    }
    if diff.more > 0 {
        lines.push(format!("      … and {} more fields", diff.more));
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        other => diff::in_line(&other.to_string()),
    }
}
