//! Keys of the configuration on the command line: `health.kind=http`.

use serde_json::{Map, Value};

use super::{Failure, Status};
use crate::api::Table;

/// A key and its value, `KEY=VALUE`: dots in the key lead into tables, the
/// value is TOML, or else text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Assignment {
    path: Vec<String>,
    value: Value,
}

impl std::str::FromStr for Assignment {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
        let path: Vec<String> = key.trim().split('.').map(ToOwned::to_owned).collect();
        if path.iter().any(String::is_empty) {
            return Err("expected a key before `=`, such as `health.kind`");
        }
        let value = value.trim();
        Ok(Self { path, value: toml(value).unwrap_or_else(|| value.into()) })
    }
}

/// The value that a piece of TOML stands for. What JSON has no type for
/// (dates, `inf`, `nan`) is left to be text.
fn toml(text: &str) -> Option<Value> {
    json(text.parse().ok()?)
}

fn json(value: toml::Value) -> Option<Value> {
    Some(match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Boolean(flag) => flag.into(),
        toml::Value::Float(number) => serde_json::Number::from_f64(number)?.into(),
        toml::Value::Array(values) => {
            values.into_iter().map(json).collect::<Option<Vec<_>>>()?.into()
        }
        toml::Value::Table(table) => table
            .into_iter()
            .map(|(key, value)| Some((key, json(value)?)))
            .collect::<Option<Map<_, _>>>()?
            .into(),
        toml::Value::Datetime(_) => return None,
    })
}

/// Adds assignments to the keys that options have set.
pub(super) fn assign(table: &mut Table, assignments: Vec<Assignment>) -> Result<(), Failure> {
    for Assignment { path, value } in assignments {
        let twice = || {
            let error = format!("`{}` is given twice, expected one value", path.join("."));
            Failure::new(Status::Usage, error)
        };
        let (last, tables) = path.split_last().expect("a key has a name");
        let mut inner = &mut *table;
        for key in tables {
            let entry = inner.entry(key.as_str()).or_insert_with(|| Table::new().into());
            inner = entry.as_object_mut().ok_or_else(twice)?;
        }
        if inner.insert(last.clone(), value).is_some() {
            return Err(twice());
        }
    }
    Ok(())
}

/// Sets a key, if there is a value for it.
pub(super) fn set(table: &mut Table, key: &str, value: Option<impl Into<Value>>) {
    table.extend(value.map(|value| (key.to_owned(), value.into())));
}

/// Keys with dots and their values, as they would be assigned.
pub(super) fn flat(table: &Table) -> Vec<(String, String)> {
    let mut flat = Vec::new();
    for (key, value) in table {
        match value {
            Value::Object(inner) => {
                let inner = self::flat(inner);
                flat.extend(
                    inner.into_iter().map(|(name, value)| (format!("{key}.{name}"), value)),
                );
            }
            Value::String(text) => flat.push((key.clone(), text.clone())),
            other => flat.push((key.clone(), other.to_string())),
        }
    }
    flat
}

/// The same in one line: `policy latency, health.kind http`.
pub(super) fn in_words(table: &Table) -> String {
    let words: Vec<_> =
        flat(table).into_iter().map(|(key, value)| format!("{key} {value}")).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn table(assignments: &[&str]) -> Result<Value, String> {
        let mut table = Table::new();
        let assignments = assignments.iter().map(|text| text.parse().unwrap()).collect();
        assign(&mut table, assignments).map_err(|failure| failure.to_string())?;
        Ok(table.into())
    }

    #[test]
    fn a_value_is_toml_or_else_text() {
        let cases = [
            ("k=5", json!(5)),
            ("k=\"5\"", json!("5")),
            ("k=true", json!(true)),
            ("k=0.5", json!(0.5)),
            ("k=10m", json!("10m")),
            ("k=", json!("")),
            ("k=a=b", json!("a=b")),
            ("k=200-399", json!("200-399")),
            ("k=8000-8100", json!("8000-8100")),
            ("k=/healthz?x=1#top", json!("/healthz?x=1#top")),
            ("k=5\nl = 6", json!("5\nl = 6")),
            ("k=inf", json!("inf")),
            ("k=2026-01-01", json!("2026-01-01")),
            ("k=[\"a\", \"b\"]", json!(["a", "b"])),
            (
                "k=[{from = [\"10.0.0.0/8\"], group = \"eu\"}]",
                json!([{"from": ["10.0.0.0/8"], "group": "eu"}]),
            ),
        ];
        for (text, value) in cases {
            assert_eq!(table(&[text]), Ok(json!({ "k": value })), "{text}");
        }
    }

    #[test]
    fn dots_lead_into_tables() {
        assert_eq!(
            table(&["health.kind=http", "health.path=/", "split.blue=95"]),
            Ok(json!({"health": {"kind": "http", "path": "/"}, "split": {"blue": 95}}))
        );
    }

    #[test]
    fn a_key_has_one_value() {
        for twice in [["a=1", "a=2"], ["a=1", "a.b=2"], ["a.b=1", "a=2"]] {
            assert!(table(&twice).unwrap_err().contains("twice"), "{twice:?}");
        }
    }

    #[test]
    fn what_assigns_nothing_is_refused() {
        for wrong in ["", "k", "=1", ".a=1", "a.=1", "a..b=1"] {
            assert!(wrong.parse::<Assignment>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn keys_are_shown_as_they_would_be_assigned() {
        let table = json!({"policy": "latency", "health": {"kind": "http", "rise": 2}});
        let table = table.as_object().unwrap();
        assert_eq!(in_words(table), "policy latency, health.kind http, health.rise 2");
    }

    proptest! {
        #[test]
        fn any_text_is_a_value(value in any::<String>()) {
            let assignment = format!("key={value}");
            prop_assert!(assignment.parse::<Assignment>().is_ok());
        }

        #[test]
        fn a_shown_key_can_be_assigned(
            keys in proptest::collection::btree_map("[a-z_]{1,8}", "[a-z]{1,4}[0-9./-]{0,4}x", 0..6)
        ) {
            let table: Table = keys.into_iter().map(|(key, value)| (key, value.into())).collect();
            let mut again = Table::new();
            let words = flat(&table).into_iter().map(|(key, value)| format!("{key}={value}"));
            assign(&mut again, words.map(|text| text.parse().unwrap()).collect()).unwrap();
            prop_assert_eq!(again, table);
        }
    }
}
