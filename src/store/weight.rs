//! How long JSON is as Postgres writes it: what it costs to store, to send and to hash.
//!
//! That is not what a client sent: `1e100000` becomes a hundred thousand digits.

use serde_json::{Map, Value};

use super::Assistant;

/// How much config, context and metadata of an assistant may be together, in bytes of text: what a request may carry unless the
/// operator allows more. Metadata is merged: patch by patch it would outgrow any request, and every sync of the assistant,
/// every search that finds it would pay for that.
pub const MAX_ASSISTANT: usize = 1 << 20;

/// How much the fields of all assistants on a page may be together, in bytes of text; in memory that is a multiple. In the database
/// small values count for more than their text (assistants_page.sql).
pub const MAX_PAGE: usize = 16 << 20;

/// A context that only mirrors `config.configurable` counts once, as a client sends it.
pub fn of_assistant(
    config: &Map<String, Value>,
    context: &Map<String, Value>,
    metadata: &Map<String, Value>,
) -> usize {
    let configurable = config.get("configurable").and_then(Value::as_object);
    let context = match configurable == Some(context) {
        true => 0,
        false => of_object(context),
    };
    of_object(config) + context + of_object(metadata)
}

/// Of these fields of an assistant.
pub fn of_fields(assistant: &Assistant, fields: &[&str]) -> usize {
    let optional = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let weights = fields.iter().map(|field| match *field {
        "graph_id" => assistant.graph_id.len(),
        "name" => optional(&assistant.name),
        "description" => optional(&assistant.description),
        "config" => of_object(&assistant.config),
        "context" => of_object(&assistant.context),
        "metadata" => of_object(&assistant.metadata),
        _ => 0,
    });
    weights.sum()
}

fn of_object(object: &Map<String, Value>) -> usize {
    let fields = object
        .iter()
        .map(|(key, value)| of_text(key) + ": ".len() + of(value));
    around(object.len()) + fields.sum::<usize>()
}

fn of(value: &Value) -> usize {
    match value {
        Value::Object(object) => of_object(object),
        Value::Array(items) => around(items.len()) + items.iter().map(of).sum::<usize>(),
        Value::String(text) => of_text(text),
        Value::Number(number) => of_number(&number.to_string()),
        Value::Bool(_) | Value::Null => value.to_string().len(),
    }
}

/// The brackets, and `, ` between the items.
fn around(items: usize) -> usize {
    2 * items.max(1)
}

fn of_text(text: &str) -> usize {
    let escaped = text.bytes().map(|byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        ..0x20 => r"\u0000".len(),
        _ => 1,
    });
    2 + escaped.sum::<usize>()
}

/// At most: Postgres writes exponents out.
fn of_number(text: &str) -> usize {
    let zeros = match text.split_once(['e', 'E']) {
        None => 0,
        Some((_, exponent)) => exponent
            .trim_start_matches(['+', '-'])
            .parse()
            .unwrap_or(u32::MAX),
    };
    text.len() + zeros as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::from_str;

    #[test]
    fn json_weighs_as_much_as_its_text_in_postgres() {
        for text in [
            "{}",
            r#"{"a": []}"#,
            r#"{"a": [1, -2.50, {"b": null}], "ä": {"c": true, "d": false}}"#,
            r#"{"\"": "\\ \n \t \u0001 ü"}"#,
        ] {
            let object = from_str(text).expect("an object");
            assert_eq!(of_object(&object), text.len(), "{text}");
        }
    }

    #[test]
    fn exponents_count_as_the_digits_that_they_stand_for() {
        for (text, digits) in [("1e100000", 100_001), ("-1.5E-1000", 1004), ("1e+99", 100)] {
            let weight = of(&from_str(text).expect("a number"));
            assert!((digits..digits + 10).contains(&weight), "{text}: {weight}");
        }
        let endless = from_str("[1e99999999999]").expect("an array");
        assert!(of(&endless) > MAX_ASSISTANT);
    }

    #[test]
    fn a_mirrored_context_counts_once() {
        let config = from_str(r#"{"configurable": {"a": 1}}"#).expect("an object");
        let context = from_str(r#"{"a": 1}"#).expect("an object");
        let weight = |context| of_assistant(&config, context, &Map::new());
        assert_eq!(weight(&context), 28);
        assert_eq!(weight(&Map::new()), 30);
    }
}
