//! Several schema documents as one (JSON Schema 2020-12 core, section 9.3): what a reference names is
//! embedded under `$defs` with its `$id`, so that nothing has to be fetched when values are validated.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use jsonschema::{Retrieve, Uri};
use serde_json::{Map, Value};

use super::words::MAX_ERROR_CHARS;
use super::{SchemaError, visible};

/// What the library takes references of a schema without `$id` to be relative to.
const BASE: &str = "json-schema:///";

/// A further document, which a schema may refer to.
#[derive(Debug, Clone)]
pub struct SchemaDocument {
    /// Its path, separated by `/`; a reference finds it by its end, or by the document's `$id`.
    pub path: String,
    /// The document.
    pub schema: Value,
}

impl SchemaDocument {
    fn id(&self) -> Option<&str> {
        let id = self.schema.get("$id").or_else(|| self.schema.get("id"));
        id.and_then(Value::as_str).map(|id| id.trim_end_matches('#'))
    }
}

/// Embeds in a schema what it refers to, from the documents given.
///
/// The library finds the references; documents are embedded here, and whole: its own `bundle` embeds
/// only what the fragment of a reference points at, under the name of the whole document.
///
/// # Errors
/// A reference that names none of them, or several.
pub fn bundle(schema: &Value, documents: Vec<SchemaDocument>) -> Result<Value, SchemaError> {
    let sought = Arc::new(Mutex::new(Sought::default()));
    let documents = Documents { given: documents, sought: Arc::clone(&sought) };
    let bundled = jsonschema::options().with_retriever(documents).bundle(schema);
    let Sought { found, missing } =
        std::mem::take(&mut *sought.lock().unwrap_or_else(PoisonError::into_inner));
    match (missing, bundled) {
        (Some(why), _) => Err(SchemaError(visible(&why, MAX_ERROR_CHARS))),
        (None, Err(error)) => Err(SchemaError(visible(&error.to_string(), MAX_ERROR_CHARS))),
        (None, Ok(_)) => Ok(embedded(schema.clone(), found)),
    }
}

/// A schema with documents under `$defs`, each with its address as `$id`.
fn embedded(mut schema: Value, found: BTreeMap<String, Value>) -> Value {
    let Some(root) = schema.as_object_mut().filter(|_| !found.is_empty()) else { return schema };
    let draft = root.get("$schema").and_then(Value::as_str).unwrap_or_default();
    let place = if draft.contains("/draft-0") { "definitions" } else { "$defs" };
    let id = if draft.contains("/draft-04") { "id" } else { "$id" };
    let place = root.entry(place).or_insert_with(|| Value::Object(Map::new()));
    for (address, document) in found {
        let mut document = match document {
            Value::Object(members) => members,
            boolean => Map::from_iter([("allOf".to_owned(), Value::Array(vec![boolean]))]),
        };
        document.insert(id.to_owned(), Value::from(address.as_str()));
        if let Some(place) = place.as_object_mut() {
            place.entry(address).or_insert(Value::Object(document));
        }
    }
    schema
}

/// What references were looked for.
#[derive(Default)]
struct Sought {
    /// Documents by address, without fragment.
    found: BTreeMap<String, Value>,
    /// Why the first that is missing is.
    missing: Option<String>,
}

struct Documents {
    given: Vec<SchemaDocument>,
    sought: Arc<Mutex<Sought>>,
}

impl Documents {
    fn find(&self, uri: &Uri<String>) -> Result<&Value, String> {
        let wanted = uri.as_str().trim_end_matches('#');
        if let Some(document) = self.given.iter().find(|document| document.id() == Some(wanted)) {
            return Ok(&document.schema);
        }
        let shown = wanted.strip_prefix(BASE).unwrap_or(wanted);
        let path = uri.path().as_str().trim_start_matches('/');
        let shared = |document: &SchemaDocument| shared_end(&document.path, path);
        let best = self.given.iter().map(shared).max().unwrap_or(0);
        let mut found = self.given.iter().filter(|document| best > 0 && shared(document) == best);
        match (found.next(), found.next()) {
            (Some(document), None) => match document.id() {
                Some(id) if !wanted.ends_with(id) => Err(format!(
                    "{:?} calls itself {id:?} ($id), but {shown:?} is referred to; let both be the same",
                    document.path
                )),
                _ => Ok(&document.schema),
            },
            (Some(one), Some(other)) => Err(format!(
                "both {:?} and {:?} may be meant by {shown:?}; give them an $id each",
                one.path, other.path
            )),
            (None, _) => Err(format!(
                "{shown:?} is none of the files given; give it with --schema-file (nothing is fetched)"
            )),
        }
    }
}

impl Retrieve for Documents {
    fn retrieve(&self, uri: &Uri<String>) -> Result<Value, Box<dyn Error + Send + Sync>> {
        let document = self.find(uri).cloned();
        let mut sought = self.sought.lock().unwrap_or_else(PoisonError::into_inner);
        match document {
            Ok(document) => {
                let address = uri.as_str().trim_end_matches('#').to_owned();
                sought.found.insert(address, document.clone());
                Ok(document)
            }
            Err(why) => Err(sought.missing.get_or_insert(why).clone().into()),
        }
    }
}

/// How many of their last steps two paths share; their last must be the same.
fn shared_end(a: &str, b: &str) -> usize {
    let steps = |path| str::rsplit(path, '/').filter(|step| *step != ".");
    steps(a).zip(steps(b)).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::domain::schema::StateSchema;
    use crate::domain::schema::tests::check_bytes;

    fn document(path: &str, schema: Value) -> SchemaDocument {
        SchemaDocument { path: path.to_owned(), schema }
    }

    fn validated(schema: &Value, payload: &str) -> bool {
        let schema = Arc::new(StateSchema::compile(schema).unwrap());
        check_bytes(&schema, payload.as_bytes()).is_ok()
    }

    #[test]
    fn what_a_reference_names_is_embedded() {
        let celsius = json!({"$defs": {"c": {"type": "number", "minimum": -50}}});
        let room = json!({"properties": {"t": {"$ref": "units/celsius.json#/$defs/c"}}, "required": ["t"]});
        let all = || {
            vec![
                document("/home/me/units/celsius.json", celsius.clone()),
                document("x/room.json", room.clone()),
            ]
        };
        for main in [
            json!({"items": {"$ref": "room.json"}}),
            json!({"$schema": "http://json-schema.org/draft-07/schema#", "items": {"$ref": "room.json"}}),
            json!({"$id": "https://example.com/s/main.json", "items": {"$ref": "room.json"}}),
        ] {
            let whole = bundle(&main, all()).unwrap();
            assert!(
                validated(&whole, r#"[{"t":20}]"#) && !validated(&whole, r#"[{"t":-60}]"#),
                "{whole}"
            );
            assert!(!validated(&whole, "[{}]") && !whole.to_string().contains("/home"));
        }
    }

    #[test]
    fn a_document_is_found_by_its_id_first() {
        let by_id =
            document("b.json", json!({"$id": "https://example.com/a.json", "type": "string"}));
        let other = document("a.json", json!({"type": "number"}));
        let main = json!({"items": {"$ref": "https://example.com/a.json"}});
        let whole = bundle(&main, vec![other, by_id]).unwrap();
        assert!(validated(&whole, r#"["a"]"#) && !validated(&whole, "[1]"));
    }

    #[test]
    fn a_reference_that_names_nothing_given_is_named() {
        let main = json!({"items": {"$ref": "http://127.0.0.1:9/far.json#/x"}});
        let why = bundle(&main, vec![document("near.json", json!({}))]).unwrap_err().to_string();
        assert!(
            why.contains("http://127.0.0.1:9/far.json") && why.contains("--schema-file"),
            "{why}"
        );
        let two = vec![document("x/a.json", json!({})), document("y/a.json", json!({}))];
        let why = bundle(&json!({"$ref": "a.json"}), two).unwrap_err().to_string();
        assert!(why.contains("x/a.json") && why.contains("y/a.json"), "{why}");
    }
}
