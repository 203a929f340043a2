//! What `query-qmp-schema` returns: QEMU's introspection of the protocol itself.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// The JSON form of a built-in type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JsonType {
    /// A string.
    String,
    /// A number.
    Number,
    /// A number without fraction.
    Int,
    /// `true` or `false`.
    Boolean,
    /// `null`.
    Null,
    /// An object.
    Object,
    /// An array.
    Array,
    /// Any of these.
    Value,
}

/// One value of an enumeration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SchemaInfoEnumMember {
    /// The value.
    pub name: String,
}

/// One member of an object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SchemaInfoObjectMember {
    /// The member's name.
    pub name: String,
    /// The name of its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Present, and then `null`, when the member may be absent.
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    pub default: Option<Value>,
}

/// Keeps `null` apart from absent.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// The members an object has beyond the common ones for one value of its tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SchemaInfoObjectVariant {
    /// The tag's value.
    pub case: String,
    /// The name of the object type that holds the members.
    #[serde(rename = "type")]
    pub kind: String,
}

/// One type a value may have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SchemaInfoAlternateMember {
    /// The name of the type.
    #[serde(rename = "type")]
    pub kind: String,
}

/// One command, event or type, of `query-qmp-schema`. Types are referred to by name; the names of
/// all but built-in types mean nothing and change between releases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    tag = "meta-type",
    rename_all = "kebab-case",
    rename_all_fields = "kebab-case"
)]
pub enum SchemaInfo {
    /// A type JSON itself has.
    Builtin {
        /// Its name.
        name: String,
        /// Its JSON form.
        json_type: JsonType,
    },
    /// An enumeration.
    Enum {
        /// Its name.
        name: String,
        /// Its values.
        members: Vec<SchemaInfoEnumMember>,
        /// Its values again, as older clients look for them.
        values: Vec<String>,
    },
    /// An array.
    Array {
        /// Its name.
        name: String,
        /// The name of its elements' type.
        element_type: String,
    },
    /// An object.
    Object {
        /// Its name.
        name: String,
        /// The members it always has.
        members: Vec<SchemaInfoObjectMember>,
        /// The member that chooses among `variants`.
        #[serde(skip_serializing_if = "Option::is_none")]
        tag: Option<String>,
        /// The members that depend on the tag.
        #[serde(skip_serializing_if = "Option::is_none")]
        variants: Option<Vec<SchemaInfoObjectVariant>>,
    },
    /// A value of one of several types.
    Alternate {
        /// Its name.
        name: String,
        /// The types.
        members: Vec<SchemaInfoAlternateMember>,
    },
    /// A command.
    Command {
        /// Its name.
        name: String,
        /// The object type of its arguments.
        arg_type: String,
        /// The type it returns.
        ret_type: String,
        /// Present and true when it may run out of band.
        #[serde(skip_serializing_if = "Option::is_none")]
        allow_oob: Option<bool>,
    },
    /// An event.
    Event {
        /// Its name.
        name: String,
        /// The object type of its data.
        arg_type: String,
    },
}

impl SchemaInfo {
    /// The name, which every kind has.
    pub fn name(&self) -> &str {
        match self {
            Self::Builtin { name, .. }
            | Self::Enum { name, .. }
            | Self::Array { name, .. }
            | Self::Object { name, .. }
            | Self::Alternate { name, .. }
            | Self::Command { name, .. }
            | Self::Event { name, .. } => name,
        }
    }
}
