//! Keys and values of the admin API, as the text that the reader reads: so
//! there is one reader, and a value is shown to the operator as in a file.

use std::fmt::Write as _;

use serde_json::Value;

use crate::api::Table;

/// The keys of a table as TOML. A key that is null is left out: its default
/// holds.
pub(super) fn toml(table: &Table) -> String {
    let mut text = String::new();
    for (key, value) in table.iter().filter(|(_, value)| !value.is_null()) {
        quoted(&mut text, key);
        text.push_str(" = ");
        inline(&mut text, value);
        text.push('\n');
    }
    text
}

fn inline(text: &mut String, value: &Value) {
    match value {
        // Only inside a list, where nothing may be null: any rule refuses it.
        Value::Null => text.push_str("{}"),
        Value::Bool(flag) => {
            let _ = write!(text, "{flag}");
        }
        Value::Number(number) => {
            let _ = write!(text, "{number}");
        }
        Value::String(string) => quoted(text, string),
        Value::Array(values) => {
            text.push('[');
            for value in values {
                inline(text, value);
                text.push_str(", ");
            }
            text.push(']');
        }
        Value::Object(table) => {
            let mut separator = "{ ";
            for (key, value) in table.iter().filter(|(_, value)| !value.is_null()) {
                text.push_str(separator);
                quoted(text, key);
                text.push_str(" = ");
                inline(text, value);
                separator = ", ";
            }
            text.push_str(if separator == ", " { " }" } else { "{}" });
        }
    }
}

/// A basic string (TOML 1.0, "String"): control characters are escaped.
fn quoted(text: &mut String, string: &str) {
    text.push('"');
    for character in string.chars() {
        match character {
            '"' | '\\' => text.extend(['\\', character]),
            '\n' => text.push_str("\\n"),
            c if c.is_control() => {
                let _ = write!(text, "\\u{:04x}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text.push('"');
}
