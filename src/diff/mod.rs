//! Where two documents differ, for people to read: field by field, long texts cut so that the changed place is seen, and without what may
//! be secret. Pure.
//!
//! Of a URL, wherever it stands, neither userinfo nor query nor fragment is shown, and of a field that is named like a secret no text.
//! What differs only there is a difference all the same ([`Field::hidden`]).

mod mask;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

pub use mask::masked;
use mask::{is_secret, is_url, masked_url};

/// Stands for what is left out.
const CUT: char = '…';

/// Stands for a text that is not shown.
const SECRET: &str = "(secret)";

/// How many characters of a text are shown at least; and of a longer one, around and within the place that has changed.
const SHOWN: usize = 100;
const AROUND: usize = 30;

/// How many fields of two documents are shown: an agent may have a parameter a byte.
const MOST: usize = 100;

/// One place at which two documents differ. Texts are cut and masked, so both may be shown to whoever may read the rest of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Field {
    pub path: String,
    /// `None`: it was not there.
    pub before: Option<Value>,
    /// `None`: it is not there any more.
    pub after: Option<Value>,
    /// What differs is not shown.
    pub hidden: bool,
}

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Diff {
    pub fields: Vec<Field>,
    /// How many more there are.
    pub more: usize,
}

/// Compares two documents. Objects are compared key by key; of lists, what both begin and end with is the same, and where the elements
/// have URLs, those of the same URL belong together.
pub fn diff(before: &Value, after: &Value) -> Diff {
    let mut diff = Diff::default();
    walk(
        &Place::default(),
        Some(before),
        Some(after),
        &mut |place, before, after| {
            if diff.fields.len() < MOST {
                diff.fields.push(field(place, before, after));
            } else {
                diff.more += 1;
            }
        },
    );
    diff
}

/// Where in a document.
#[derive(Clone, Default)]
struct Place {
    path: String,
    /// Whether something on the way there is named like a secret; and whether it is itself named like a URL.
    is_secret: bool,
    is_url: bool,
    /// It is one of a list, known by its URL.
    is_element: bool,
}

impl Place {
    fn key(&self, key: &str) -> Self {
        let is_plain = !key.is_empty()
            && key
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
        let path = match (is_plain && key.len() <= SHOWN, self.path.is_empty()) {
            (true, true) => key.to_owned(),
            (true, false) => format!("{}.{key}", self.path),
            (false, _) => format!("{}[{}]", self.path, quoted(&cut(&masked(key)))),
        };
        Self {
            path,
            is_secret: self.is_secret || is_secret(key),
            is_url: is_url(key),
            is_element: false,
        }
    }

    fn index(&self, index: usize) -> Self {
        Self {
            path: format!("{}[{index}]", self.path),
            is_element: false,
            ..self.clone()
        }
    }

    /// The nth element of a list that has this URL.
    fn url(&self, url: &str, nth: usize) -> Self {
        let nth = if nth == 0 {
            String::new()
        } else {
            format!("#{}", nth + 1)
        };
        Self {
            path: format!("{}[{}]{nth}", self.path, quoted(&cut(url))),
            is_element: true,
            ..self.clone()
        }
    }
}

type Found<'a> = dyn FnMut(&Place, Option<&Value>, Option<&Value>) + 'a;

/// Comes to each leaf that differs: to what holds nothing else.
fn walk(place: &Place, before: Option<&Value>, after: Option<&Value>, found: &mut Found<'_>) {
    if before == after {
        return;
    }
    match (before, after) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for key in keys {
                walk(&place.key(key), old.get(key), new.get(key), found);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => lists(place, old, new, found),
        // Said in one go.
        (Some(whole), None) | (None, Some(whole)) if place.is_element && is_small(whole) => {
            found(place, before, after);
        }
        (Some(whole), None) if holds_more(whole) => {
            for (place, part) in parts(place, whole) {
                walk(&place, Some(part), None, found);
            }
        }
        (None, Some(whole)) if holds_more(whole) => {
            for (place, part) in parts(place, whole) {
                walk(&place, None, Some(part), found);
            }
        }
        (Some(old), Some(new)) if holds_more(old) || holds_more(new) => {
            walk(place, Some(old), None, found);
            walk(place, None, Some(new), found);
        }
        (before, after) => found(place, before, after),
    }
}

fn holds_more(value: &Value) -> bool {
    match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    }
}

fn is_small(value: &Value) -> bool {
    let is_leaf = |value| !holds_more(value);
    let fields = value.as_object();
    fields.is_some_and(|fields| fields.len() <= 4 && fields.values().all(is_leaf))
}

fn parts<'a>(place: &Place, whole: &'a Value) -> Vec<(Place, &'a Value)> {
    match whole {
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (place.key(key), value))
            .collect(),
        Value::Array(items) => match by_url(items) {
            Some(by_url) => by_url
                .into_iter()
                .map(|((url, nth), item)| (place.url(&url, nth), item))
                .collect(),
            None => items
                .iter()
                .enumerate()
                .map(|(index, item)| (place.index(index), item))
                .collect(),
        },
        _ => Vec::new(),
    }
}

fn lists(place: &Place, old: &[Value], new: &[Value], found: &mut Found<'_>) {
    if let (Some(mut old), Some(new)) = (by_url(old), by_url(new)) {
        for (key, item) in new {
            let before = old.remove(&key);
            walk(&place.url(&key.0, key.1), before, Some(item), found);
        }
        for ((url, nth), item) in old {
            walk(&place.url(&url, nth), Some(item), None, found);
        }
        return;
    }
    let same = |(old, new): &(&Value, &Value)| old == new;
    let begins = old.iter().zip(new).take_while(same).count();
    let (old, new) = (&old[begins..], &new[begins..]);
    let ends = old
        .iter()
        .rev()
        .zip(new.iter().rev())
        .take_while(same)
        .count();
    let (old, new) = (&old[..old.len() - ends], &new[..new.len() - ends]);
    if old.len() == new.len() {
        for (index, (old, new)) in old.iter().zip(new).enumerate() {
            walk(&place.index(begins + index), Some(old), Some(new), found);
        }
        return;
    }
    for (index, item) in old.iter().enumerate() {
        walk(&place.index(begins + index), Some(item), None, found);
    }
    for (index, item) in new.iter().enumerate() {
        walk(&place.index(begins + index), None, Some(item), found);
    }
}

/// The elements of a list by the URL that each has, as it is shown; and which of those with the same it is.
fn by_url(items: &[Value]) -> Option<BTreeMap<(String, usize), &Value>> {
    let mut by_url = BTreeMap::new();
    for item in items {
        let url = masked_url(item.get("url")?.as_str()?);
        let nth = by_url
            .range((url.clone(), 0)..=(url.clone(), usize::MAX))
            .count();
        by_url.insert((url, nth), item);
    }
    Some(by_url)
}

fn field(place: &Place, before: Option<&Value>, after: Option<&Value>) -> Field {
    let path = place.path.clone();
    let (old, new) = (
        before.map(|value| text(place, value)),
        after.map(|value| text(place, value)),
    );
    if let (Some(old), Some(new)) = (&old, &new) {
        let hidden = old == new;
        let (Shown::Text(old), Shown::Text(new)) = (old, new) else {
            return Field {
                path,
                before: Some(whole(old)),
                after: Some(whole(new)),
                hidden,
            };
        };
        let (old, new) = around(old, new);
        return Field {
            path,
            before: Some(Value::String(old)),
            after: Some(Value::String(new)),
            hidden,
        };
    }
    Field {
        path,
        before: old.as_ref().map(whole),
        after: new.as_ref().map(whole),
        hidden: false,
    }
}

/// What may be shown of a leaf.
#[derive(PartialEq)]
enum Shown {
    Text(String),
    Other(Value),
}

fn text(place: &Place, leaf: &Value) -> Shown {
    match leaf {
        Value::String(_) if place.is_secret => Shown::Text(SECRET.to_owned()),
        Value::String(text) if place.is_url => Shown::Text(masked_url(text)),
        Value::String(text) => Shown::Text(masked(text)),
        // As long as somebody likes.
        Value::Number(number) if number.as_str().len() > SHOWN => Shown::Text(number.to_string()),
        // A small one of a list; its URL is in its path.
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(key, _)| *key != "url");
            let shown = fields.map(|(key, value)| {
                let its = whole(&text(&place.key(key), value));
                (cut(&masked(key)), its)
            });
            Shown::Other(Value::Object(shown.collect()))
        }
        other => Shown::Other(other.clone()),
    }
}

fn whole(shown: &Shown) -> Value {
    match shown {
        Shown::Text(text) => Value::String(cut(text)),
        Shown::Other(value) => value.clone(),
    }
}

/// The beginning of a text.
pub fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}{CUT}", &text[..end]),
        None => text.to_owned(),
    }
}

/// Two texts, each as far as it differs from the other, with a little around that.
fn around(old: &str, new: &str) -> (String, String) {
    if [old, new]
        .iter()
        .all(|text| text.char_indices().nth(SHOWN).is_none())
        || old == new
    {
        return (cut(old), cut(new));
    }
    let same = |(old, new): &(char, char)| old == new;
    let begins: usize = old
        .chars()
        .zip(new.chars())
        .take_while(same)
        .map(|(c, _)| c.len_utf8())
        .sum();
    let rest = (&old[begins..], &new[begins..]);
    let ends: usize = rest
        .0
        .chars()
        .rev()
        .zip(rest.1.chars().rev())
        .take_while(same)
        .map(|(c, _)| c.len_utf8())
        .sum();
    let show = |text: &str| {
        let (head, rest) = text.split_at(begins);
        let (changed, tail) = rest.split_at(rest.len() - ends);
        let mut shown = String::new();
        match head.char_indices().rev().nth(AROUND) {
            Some((before, c)) => {
                shown.push(CUT);
                shown.push_str(&head[before + c.len_utf8()..]);
            }
            None => shown.push_str(head),
        }
        shown.push_str(&cut(changed));
        match tail.char_indices().nth(AROUND) {
            Some((end, _)) => {
                shown.push_str(&tail[..end]);
                shown.push(CUT);
            }
            None => shown.push_str(tail),
        }
        shown
    };
    (show(old), show(new))
}

/// A text in quotation marks, in which nothing moves a terminal's cursor or hides other text.
pub fn quoted(text: &str) -> String {
    // What `escape_debug` escapes, but for this one.
    let parts: Vec<String> = text
        .split('\'')
        .map(|part| part.escape_debug().to_string())
        .collect();
    format!("\"{}\"", parts.join("'"))
}

/// The same without quotation marks: what somebody else has said, in one line.
pub fn in_line(text: &str) -> String {
    let plain = |c: char| match c {
        '"' | '\'' | '\\' => c.to_string(),
        other => other.escape_debug().to_string(),
    };
    text.chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, json};

    use super::*;

    fn shown(before: Value, after: Value) -> Vec<String> {
        let side =
            |value: Option<Value>| value.map_or("nothing".to_owned(), |value| value.to_string());
        let fields = diff(&before, &after).fields.into_iter();
        fields
            .map(|field| {
                let hidden = if field.hidden { " (hidden)" } else { "" };
                format!(
                    "{}: {} -> {}{hidden}",
                    field.path,
                    side(field.before),
                    side(field.after)
                )
            })
            .collect()
    }

    #[test]
    fn fields_are_compared_one_by_one() {
        let before = json!({"graph_id": "a", "config": {"configurable": {"top_p": 1, "stop": []}}, "old": {"a": [1, {}]}});
        let after = json!({"graph_id": "b", "config": {"configurable": {"top_p": "1", "odd key": null, "stop": []}}});
        assert_eq!(
            shown(before, after),
            [
                r#"config.configurable["odd key"]: nothing -> null"#,
                r#"config.configurable.top_p: 1 -> "1""#,
                r#"graph_id: "a" -> "b""#,
                r#"old.a[0]: 1 -> nothing"#,
                r#"old.a[1]: {} -> nothing"#,
            ]
        );
        assert_eq!(
            shown(json!({"a": {"b": 1}}), json!({"a": 2})),
            ["a.b: 1 -> nothing", "a: nothing -> 2"]
        );
    }

    #[test]
    fn of_lists_what_both_begin_and_end_with_is_the_same() {
        for (before, after, expected) in [
            (json!([1, 2, 3]), json!([1, 3]), vec!["[1]: 2 -> nothing"]),
            (json!([1, 3]), json!([1, 2, 3]), vec!["[1]: nothing -> 2"]),
            (json!([1, 2, 3]), json!([1, 9, 3]), vec!["[1]: 2 -> 9"]),
            (json!([1, 1]), json!([1]), vec!["[1]: 1 -> nothing"]),
            (json!([]), json!([1]), vec!["[0]: nothing -> 1"]),
        ] {
            assert_eq!(shown(before, after), expected);
        }
    }

    #[test]
    fn servers_belong_together_by_their_urls() {
        let server =
            |url: &str, auth_required: bool| json!({"url": url, "auth_required": auth_required});
        let before = json!({"servers": [server("https://a/mcp", false), server("https://b?key=canary1", true)]});
        let after = json!({"servers": [server("https://0", true), server("https://a/mcp", true), server("https://b?key=canary2", true)]});
        assert_eq!(
            shown(before, after),
            [
                r#"servers["https://0"]: nothing -> {"auth_required":true}"#,
                r#"servers["https://a/mcp"].auth_required: false -> true"#,
                r#"servers["https://b?…"].url: "https://b?…" -> "https://b?…" (hidden)"#,
            ]
        );
    }

    #[test]
    fn of_a_long_text_the_changed_place_is_seen() {
        let (head, tail) = ("a".repeat(5000), "z".repeat(5000));
        let before = json!(format!("{head}Answer in English.{tail}"));
        let after = json!(format!("{head}Answer in German.{tail}"));
        let (a, z) = (
            "a".repeat(AROUND - "Answer in ".len()),
            "z".repeat(AROUND - "h.".len() + 1),
        );
        assert_eq!(
            shown(before, after),
            [format!(
                r#": "…{a}Answer in English.{z}…" -> "…{a}Answer in German.{z}…""#
            )]
        );
    }

    #[test]
    fn what_is_named_like_a_secret_is_not_shown_and_its_change_is() {
        let (before, after) = (
            json!({"api_key": {"of": ["canary1"]}}),
            json!({"api_key": {"of": ["canary2"]}}),
        );
        assert_eq!(
            shown(before, after),
            [r#"api_key.of[0]: "(secret)" -> "(secret)" (hidden)"#]
        );
    }

    #[test]
    fn what_is_named_like_a_url_is_one_without_a_scheme_too() {
        assert_eq!(
            shown(json!({}), json!({"endpoint_url": "u:canary@host/x?canary"})),
            [r#"endpoint_url: nothing -> "…@host/x?…""#]
        );
    }

    #[test]
    fn a_number_may_be_as_long_as_somebody_likes() {
        let number: Value = serde_json::from_str(&"1".repeat(1000)).expect("a number");
        let expected = format!(r#"[0]: nothing -> "{}…""#, "1".repeat(SHOWN));
        assert_eq!(shown(json!([]), json!([number])), [expected]);
    }

    #[test]
    fn no_more_fields_are_shown_than_somebody_can_read() {
        let many: Map<String, Value> = (0..1000).map(|n| (format!("k{n}"), json!(n))).collect();
        let Diff { fields, more } = diff(&json!({}), &Value::Object(many));
        assert_eq!((fields.len(), more), (MOST, 1000 - MOST));
    }

    #[test]
    fn nothing_shown_moves_the_cursor_or_turns_text_around() {
        let odd = "it's \"fine\" \u{1b}[2J\u{9b}2J\u{202e}\n\r\u{7f}é";
        let shown = quoted(odd);
        assert_eq!(
            shown,
            r#""it's \"fine\" \u{1b}[2J\u{9b}2J\u{202e}\n\r\u{7f}é""#
        );
        assert_eq!(
            in_line(odd),
            r#"it's "fine" \u{1b}[2J\u{9b}2J\u{202e}\n\r\u{7f}é"#
        );
    }

    /// Any JSON, with URLs and lists of servers in it.
    fn document() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-c]{0,3}".prop_map(Value::from),
            text().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map("[a-c]{1,2}|url|api_key", inner.clone(), 0..5)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
                prop::collection::vec(("[a-c]", inner), 0..4).prop_map(|servers| {
                    let server = |(url, more)| json!({"url": format!("https://{url}?key=canary"), "more": more});
                    Value::Array(servers.into_iter().map(server).collect())
                }),
            ]
        })
    }

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            "[abé…]{0,300}",
            ".{0,40}",
            // A secret in each place where a URL may have one.
            (
                "[a-z ]{0,40}",
                "(u:canary|canary|u:can/canary|u:1?canary)@|",
                "[a-z]{1,5}",
                "(:[0-9]{1,3})?",
                "(/[a-z]{0,5}){0,3}",
                "([?#][a-z=]{0,4}canary[@a-z/]{0,4})?",
                "[a-z ]{0,3}"
            )
                .prop_map(|(before, user, host, port, path, more, after)| format!(
                    "{before}https://{user}{host}{port}{path}{more} {after}"
                )),
        ]
    }

    /// All that holds nothing else, but for what is empty: to become empty is to lose all else.
    fn leaves(value: &Value) -> Vec<String> {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                fields.values().flat_map(leaves).collect()
            }
            Value::Array(items) if !items.is_empty() => items.iter().flat_map(leaves).collect(),
            Value::Object(_) | Value::Array(_) => Vec::new(),
            leaf => vec![leaf.to_string()],
        }
    }

    proptest! {
        #[test]
        fn only_what_is_the_same_has_no_difference(before in document(), after in document()) {
            prop_assert_eq!(diff(&before, &before), Diff::default());
            let differences = diff(&before, &after);
            prop_assert_eq!(differences.fields.is_empty(), before == after);
            for field in &differences.fields {
                prop_assert_eq!(field.before == field.after, field.hidden, "{:?}", field);
            }
        }

        #[test]
        fn what_goes_and_what_comes_is_all_there_is_between_two_documents(before in document(), after in document()) {
            let mut now = leaves(&before);
            let mut come = Vec::new();
            walk(&Place::default(), Some(&before), Some(&after), &mut |_, old, new| {
                for old in old.into_iter().flat_map(leaves) {
                    let at = now.iter().position(|leaf| *leaf == old);
                    now.swap_remove(at.expect("it was there"));
                }
                come.extend(new.into_iter().flat_map(leaves));
            });
            now.extend(come);
            let mut expected = leaves(&after);
            now.sort();
            expected.sort();
            prop_assert_eq!(now, expected);
        }

        #[test]
        fn the_way_back_is_the_same_way(before in document(), after in document()) {
            let turned = |field: Field| (field.path, field.after, field.before, field.hidden);
            let plain = |field: Field| (field.path, field.before, field.after, field.hidden);
            let mut there: Vec<_> = diff(&before, &after).fields.into_iter().map(plain).collect();
            let mut back: Vec<_> = diff(&after, &before).fields.into_iter().map(turned).collect();
            there.sort_by_key(|field| format!("{field:?}"));
            back.sort_by_key(|field| format!("{field:?}"));
            prop_assert_eq!(there, back);
        }

        #[test]
        fn no_secret_of_any_url_is_shown_and_no_text_is_long(before in document(), after in document()) {
            for field in diff(&before, &after).fields {
                let shown = serde_json::to_string(&field).expect("JSON");
                prop_assert!(!shown.contains("canary"), "{}", shown);
                for side in [&field.before, &field.after].into_iter().flatten() {
                    let length = side.as_str().unwrap_or_default().chars().count();
                    prop_assert!(length <= SHOWN + 2 * AROUND + 3, "{}", side);
                    prop_assert!(side.to_string().len() < 10 * SHOWN, "{}", side);
                }
            }
        }

        #[test]
        fn a_change_anywhere_in_a_text_is_seen(text in "[ab]{0,400}", at in any::<prop::sample::Index>(), cut in 0..50usize, new in "[ab…]{0,150}") {
            let at = at.index(text.len() + 1);
            let after = format!("{}{new}{}", &text[..at], text.get(at + cut..).unwrap_or_default());
            prop_assume!(text != after);
            let Diff { fields, .. } = diff(&json!(text), &json!(after));
            prop_assert_ne!(&fields[0].before, &fields[0].after);
        }
    }
}
