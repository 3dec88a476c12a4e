//! What two servers answered in the same scenario, compared: equal, but for the differences that are known and have a reason.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};

use serde_json::Value;

/// A field that one side does not have.
pub const ABSENT: &str = "absent";

/// Whatever it is.
pub const ANYTHING: &str = "anything";

/// Of a list, any one.
const ITEM: &str = "[]";

/// Where the two are known to differ.
#[derive(Clone, Copy)]
pub struct Difference {
    /// `*`: in any.
    pub step: &'static str,
    /// A path into the step, such as `body.metadata.owner`, which covers what is below it. An item of a list is `[]`, and
    /// `**` is any number of names. `status` covers all of the answer.
    pub field: &'static str,
    /// What stands there, as JSON, or [`ABSENT`], or [`ANYTHING`].
    pub theirs: &'static str,
    pub ours: &'static str,
    pub reason: &'static str,
}

impl Display for Difference {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            step,
            field,
            theirs,
            ours,
            reason,
        } = self;
        write!(f, "{step}: {field}: {theirs}, ours: {ours}, since {reason}")
    }
}

/// All that is wrong: differences that are not among the known ones, and known ones that are not there.
pub fn compare(theirs: &[Value], ours: &[Value], known: &[Difference]) -> Vec<String> {
    let (their_steps, our_steps) = (names(theirs), names(ours));
    if their_steps != our_steps {
        return vec![format!("not the same steps: {their_steps:?} {our_steps:?}")];
    }
    let known: Vec<_> = known.iter().map(|one| (one, Cell::new(false))).collect();
    let mut wrong = Vec::new();
    for ((theirs, ours), step) in theirs.iter().zip(ours).zip(their_steps) {
        let is_known = |path: &[&str], theirs: Option<&Value>, ours: Option<&Value>| {
            let found = known.iter().find(|(one, _)| {
                let field: Vec<_> = one.field.split('.').collect();
                (one.step == "*" || one.step == step)
                    && matches(&field, path)
                    && says(theirs, one.theirs)
                    && says(ours, one.ours)
            });
            found.inspect(|(_, occurs)| occurs.set(true)).is_some()
        };
        let at_once = (&theirs["status"], &ours["status"]);
        if at_once.0 != at_once.1 {
            if !is_known(&["status"], Some(at_once.0), Some(at_once.1)) {
                let [theirs, ours] =
                    [theirs, ours].map(|answer| format!("{} {}", answer["status"], answer["body"]));
                wrong.push(format!("{step}: {theirs}, ours: {ours}"));
            }
            continue;
        }
        let mut told = |path: &[&str], theirs: Option<&Value>, ours: Option<&Value>| {
            if is_known(path, theirs, ours) {
                return true;
            }
            let closer = descends(theirs, ours);
            if !closer {
                let field = path.join(".");
                let [theirs, ours] =
                    [theirs, ours].map(|v| v.map_or(ABSENT.to_owned(), Value::to_string));
                wrong.push(format!("{step}: {field}: {theirs}, ours: {ours}"));
            }
            !closer
        };
        differences(Some(theirs), Some(ours), &mut Vec::new(), &mut told);
    }
    let unseen = known.iter().filter(|(_, occurs)| !occurs.get());
    wrong.extend(unseen.map(|(one, _)| format!("does not occur: {one}")));
    wrong
}

pub fn names(steps: &[Value]) -> Vec<&str> {
    steps
        .iter()
        .map(|step| step["step"].as_str().expect("a name"))
        .collect()
}

/// Calls `told` where the two differ, from the outside to the inside, until it says that this is settled.
fn differences<'a>(
    theirs: Option<&'a Value>,
    ours: Option<&'a Value>,
    path: &mut Vec<&'a str>,
    told: &mut impl FnMut(&[&str], Option<&Value>, Option<&Value>) -> bool,
) {
    if theirs == ours || told(path, theirs, ours) {
        return;
    }
    match (theirs, ours) {
        (Some(Value::Object(theirs)), Some(Value::Object(ours))) => {
            let keys: BTreeSet<_> = theirs.keys().chain(ours.keys()).collect();
            for key in keys {
                path.push(key);
                differences(theirs.get(key), ours.get(key), path, told);
                path.pop();
            }
        }
        (Some(Value::Array(theirs)), Some(Value::Array(ours))) => {
            for (theirs, ours) in theirs.iter().zip(ours) {
                path.push(ITEM);
                differences(Some(theirs), Some(ours), path, told);
                path.pop();
            }
        }
        _ => {}
    }
}

/// Whether it can be told more closely where the two differ.
fn descends(theirs: Option<&Value>, ours: Option<&Value>) -> bool {
    match (theirs, ours) {
        (Some(Value::Object(_)), Some(Value::Object(_))) => true,
        (Some(Value::Array(theirs)), Some(Value::Array(ours))) => theirs.len() == ours.len(),
        _ => false,
    }
}

fn says(value: Option<&Value>, expected: &str) -> bool {
    match (value, expected) {
        (_, ANYTHING) => true,
        (value, ABSENT) => value.is_none(),
        (value, json) => value == Some(&serde_json::from_str(json).expect("JSON")),
    }
}

fn matches(pattern: &[&str], path: &[&str]) -> bool {
    match (pattern, path) {
        ([], []) => true,
        (["**", rest @ ..], _) => (0..=path.len()).any(|skipped| matches(rest, &path[skipped..])),
        ([first, pattern @ ..], [name, path @ ..]) => first == name && matches(pattern, path),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const OWNER: Difference = Difference {
        step: "*",
        field: "body.**.owner",
        theirs: ABSENT,
        ours: r#""us""#,
        reason: "a test",
    };

    fn steps(bodies: [Value; 2]) -> Vec<Value> {
        let [first, second] = bodies;
        vec![
            json!({"step": "first", "body": first}),
            json!({"step": "second", "body": second}),
        ]
    }

    #[test]
    fn what_is_known_is_no_difference_and_all_else_is() {
        let theirs = steps([json!({"a": [{"b": 1}]}), json!(2)]);
        let ours = steps([json!({"a": [{"b": 1, "owner": "us"}]}), json!(2)]);
        assert_eq!(compare(&theirs, &ours, &[OWNER]), Vec::<String>::new());
        assert_eq!(
            compare(&theirs, &ours, &[]),
            [r#"first: body.a.[].owner: absent, ours: "us""#]
        );
        let others = steps([json!({"a": [{"b": 1, "owner": "them"}]}), json!([2])]);
        assert_eq!(
            compare(&theirs, &others, &[OWNER]).len(),
            3,
            "two that are not known, and one that does not occur"
        );
    }

    #[test]
    fn what_is_known_must_occur() {
        let same = steps([json!({}), json!(2)]);
        let wrong = compare(&same, &same, &[OWNER]);
        assert!(
            wrong.len() == 1 && wrong[0].starts_with("does not occur"),
            "{wrong:?}"
        );
        assert_eq!(compare(&same, &same[..1], &[]).len(), 1);
    }

    #[test]
    fn another_status_is_another_answer() {
        let answer = |status: u16| vec![json!({"step": "one", "status": status, "body": status})];
        let (theirs, ours) = (answer(404), answer(200));
        assert_eq!(
            compare(&theirs, &ours, &[]),
            ["one: 404 404, ours: 200 200"]
        );
        let known = Difference {
            step: "one",
            field: "status",
            theirs: "404",
            ..OWNER
        };
        let known = [200, 201].map(|ours| Difference {
            ours: if ours == 200 { "200" } else { "201" },
            ..known
        });
        assert_eq!(compare(&theirs, &ours, &known[..1]), Vec::<String>::new());
        assert_eq!(compare(&theirs, &ours, &known[1..]).len(), 2);
    }

    /// A whole is named where one is of another kind than the other, or longer.
    #[test]
    fn lists_of_different_lengths_differ_as_a_whole() {
        let (theirs, ours) = (
            steps([json!([1, 2]), json!({})]),
            steps([json!([1]), json!([])]),
        );
        assert_eq!(
            compare(&theirs, &ours, &[]),
            [
                "first: body: [1,2], ours: [1]",
                "second: body: {}, ours: []"
            ]
        );
    }
}
