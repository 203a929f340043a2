//! The JSON Schema (draft 2020-12) of the configuration, generated from its types.
//!
//! It is committed as resources/schema/config.json for editors and other tools; a test holds
//! the two equal. [`super::shape`] reads the same schema to name every misplaced key.

use serde_json::Value;

use super::Config;

/// The schema of [`Config`].
pub fn schema() -> Value {
    schemars::schema_for!(Config).to_value()
}

/// The schema as the committed file has it: indented, with a final newline.
pub fn schema_text() -> String {
    // The alternate form of a `Value` is indented JSON, and unlike serialising it cannot fail.
    format!("{:#}\n", schema())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::{env, fs};

    use super::*;

    #[test]
    fn the_committed_schema_is_current() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../resources/schema/config.json");
        if env::var_os("UPDATE_GOLDENS").is_some() {
            fs::write(&file, schema_text()).unwrap();
        }
        let committed = fs::read_to_string(&file).unwrap_or_default();
        assert!(
            committed == schema_text(),
            "resources/schema/config.json is missing or stale; \
             run UPDATE_GOLDENS=1 cargo test -p api-socket to refresh it"
        );
    }

    /// Every property says what it is, so that an editor can show it.
    #[test]
    fn every_key_is_described() {
        fn visit(at: &str, schema: &Value) {
            for (name, inner) in schema
                .get("properties")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
            {
                assert!(
                    inner.get("description").is_some(),
                    "{at}.{name} has no description"
                );
            }
        }
        let schema = schema();
        visit("", &schema);
        for (name, inner) in schema["$defs"].as_object().unwrap() {
            visit(name, inner);
        }
    }
}
