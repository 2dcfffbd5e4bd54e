//! Devices as comma-separated values, one a line, with a header that names the columns.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::str::FromStr;

use csv_core::{ReadFieldResult, Reader};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::Columns;
use super::foreign::{Entry, Login, check_password};
use super::line::{Binding, Device, Item, LineError};
use crate::domain::meta::Meta;
use crate::domain::name::{BindingName, DeviceKind, DeviceName, PlaceName};
use crate::fleet::bindings::{Directions, Home};
use crate::secret::Secret;

/// Most columns of a line.
const MOST_FIELDS: usize = 1000;

thread_local! {
    /// To make one takes longer than to read a line. (A copy of one does not read as it does.)
    static READER: RefCell<Reader> = RefCell::new(Reader::new());
}

/// The fields of a line. No `Debug`: passwords.
pub(super) struct Fields {
    text: Zeroizing<String>,
    /// Where each ends in `text`, and began in the line.
    ends: Vec<(usize, usize)>,
}

impl Fields {
    /// Splits a line as RFC 4180 says. A field may not hold a line end.
    ///
    /// # Errors
    /// A quote that is not closed, or too many fields.
    pub(super) fn split(line: &str) -> Result<Self, LineError> {
        if line.is_empty() {
            return Ok(Self { text: Zeroizing::new(String::new()), ends: vec![(0, 0)] });
        }
        READER.with_borrow_mut(|reader| {
            reader.reset();
            Self::split_by(reader, line)
        })
    }

    fn split_by(reader: &mut Reader, line: &str) -> Result<Self, LineError> {
        let mut output = Zeroizing::new(vec![0; line.len() + 1]);
        let (mut read, mut written, mut begun) = (0, 0, 0);
        let mut ends = Vec::new();
        loop {
            let input = line.as_bytes().get(read..).unwrap_or_default();
            let input = if input.is_empty() { b"\n" } else { input };
            let room = output.get_mut(written..).unwrap_or_default();
            let (result, taken, put) = reader.read_field(input, room);
            (read, written) = (read + taken, written + put);
            match result {
                ReadFieldResult::Field { record_end } => {
                    ends.push((written, begun));
                    begun = read;
                    if record_end && read <= line.len() {
                        let why =
                            "has a line end (CR) inside; save the file with line ends LF or CRLF";
                        return Err(LineError::at(read, "", why));
                    }
                    if record_end {
                        break;
                    }
                    if ends.len() >= MOST_FIELDS {
                        let why = format!("has more than {MOST_FIELDS} fields");
                        return Err(LineError::at(read, "", why));
                    }
                }
                ReadFieldResult::InputEmpty if read <= line.len() => {}
                ReadFieldResult::InputEmpty
                | ReadFieldResult::OutputFull
                | ReadFieldResult::End => {
                    let why = "has a quote that is not closed; a field ends in its line";
                    return Err(LineError::at(begun + 1, "", why));
                }
            }
        }
        output.truncate(written);
        let text = Zeroizing::new(String::from_utf8(output.to_vec()).unwrap_or_default());
        Ok(Self { text, ends })
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// A field, and the column where it begins.
    pub(super) fn get(&self, position: usize) -> (&str, usize) {
        let start = match position.checked_sub(1) {
            Some(before) => self.ends.get(before).map_or(0, |(end, _)| *end),
            None => 0,
        };
        let (end, column) = self.ends.get(position).copied().unwrap_or_default();
        (self.text.get(start..end).unwrap_or_default(), column + 1)
    }

    /// # Errors
    /// Another number of fields than the header has.
    pub(super) fn expect(&self, header: usize) -> Result<(), LineError> {
        if self.len() == header {
            return Ok(());
        }
        let has = self.len();
        Err(LineError::whole(format!("has {has} fields; the header has {header}")))
    }
}

/// Reads the columns that a header names.
///
/// # Errors
/// A column that `read` does not know, or that comes twice.
pub(super) fn columns_of<T: PartialEq>(
    line: &str,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, LineError> {
    let fields = Fields::split(line)?;
    let mut columns = Vec::new();
    for position in 0..fields.len() {
        let (text, at) = fields.get(position);
        let text = text.trim();
        let column = read(text).map_err(|why| LineError::at(at, text, why))?;
        if columns.contains(&column) {
            return Err(LineError::at(at, text, "comes twice"));
        }
        columns.push(column);
    }
    Ok(columns)
}

/// What a column says.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Column {
    Name,
    Kind,
    Area,
    Floor,
    ClientId,
    Enabled,
    Secret,
    Generate,
    Meta(String),
    /// Whether to bind to the conventional topics.
    Bind(BindingName),
    StateTopic(BindingName),
    CommandTopic(BindingName),
}

const COLUMNS: &str = "name, kind, area, floor, client_id, enabled, secret, generate, meta.KEY, bind.CAPABILITY, \
    state_topic.CAPABILITY, command_topic.CAPABILITY";

impl Column {
    fn of(text: &str) -> Result<Self, String> {
        let unknown = || format!("is not known; the columns are {COLUMNS}");
        let named = |name: &str| name.parse::<BindingName>().map_err(|error| error.to_string());
        Ok(match text.split_once('.') {
            None => match text {
                "name" => Self::Name,
                "kind" => Self::Kind,
                "area" => Self::Area,
                "floor" => Self::Floor,
                "client_id" => Self::ClientId,
                "enabled" => Self::Enabled,
                "secret" => Self::Secret,
                "generate" => Self::Generate,
                _ => return Err(unknown()),
            },
            Some(("meta", key)) => Self::Meta(key.to_owned()),
            Some(("bind", name)) => Self::Bind(named(name)?),
            Some(("state_topic", name)) => Self::StateTopic(named(name)?),
            Some(("command_topic", name)) => Self::CommandTopic(named(name)?),
            Some(_) => return Err(unknown()),
        })
    }
}

/// A file of devices.
pub struct Csv {
    columns: Vec<(Column, String)>,
    kind: Option<DeviceKind>,
    directions: BTreeMap<BindingName, Directions>,
}

impl Csv {
    /// Reads the header. `kind` is what devices are whose line does not say it.
    ///
    /// # Errors
    /// A column that is not known, comes twice, or is missing.
    pub fn new(header: &str, kind: Option<DeviceKind>) -> Result<Self, LineError> {
        let columns = columns_of(header, |text| Ok((Column::of(text)?, text.to_owned())))?;
        let has = |column| columns.iter().any(|(other, _)| *other == column);
        if !has(Column::Name) {
            return Err(LineError::whole("has no column \"name\""));
        }
        if !has(Column::Kind) && kind.is_none() {
            let why = "has no column \"kind\"; add one, or say --kind";
            return Err(LineError::whole(why));
        }
        Ok(Self { columns, kind, directions: BTreeMap::new() })
    }

    /// Which bindings may get conventional topics. What those are depends on their capabilities ([`Csv::know`]).
    #[must_use]
    pub fn bindings(&self) -> Vec<BindingName> {
        let bound = |(column, _): &(Column, _)| match column {
            Column::Bind(name) => Some(name.clone()),
            _ => None,
        };
        self.columns.iter().filter_map(bound).collect()
    }

    /// Whether secrets may have to be generated.
    #[must_use]
    pub fn generates(&self) -> bool {
        self.columns.iter().any(|(column, _)| *column == Column::Generate)
    }

    /// Notes which topics a binding has by the convention.
    pub fn know(&mut self, name: BindingName, directions: Directions) {
        self.directions.insert(name, directions);
    }

    /// Which columns of a device the file has.
    #[must_use]
    pub fn known(&self) -> Columns {
        self.columns.iter().fold(Columns::default(), |known, (column, text)| match column {
            Column::Meta(_) => known.and("meta"),
            _ => known.and(text),
        })
    }

    /// What a line brings.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn line(&self, text: &str) -> Result<Entry, LineError> {
        let fields = Fields::split(text)?;
        fields.expect(self.columns.len())?;
        let (mut name, mut kind, mut generate, mut secret) = (None, self.kind.clone(), false, None);
        let (mut area, mut floor, mut client_id, mut enabled) = (None, None, None, None);
        let mut meta = Map::new();
        let mut conventional = Vec::new();
        let mut bindings: BTreeMap<BindingName, Binding> = BTreeMap::new();
        for (position, (column, title)) in self.columns.iter().enumerate() {
            let (text, at) = fields.get(position);
            let error = |why: String| LineError::at(at, title, why);
            if text.is_empty() {
                continue;
            }
            match column {
                Column::Name => name = Some(parsed::<DeviceName>(text).map_err(error)?),
                Column::Kind => kind = Some(parsed(text).map_err(error)?),
                Column::Area => area = Some(parsed::<PlaceName>(text).map_err(error)?),
                Column::Floor => floor = Some(parsed::<PlaceName>(text).map_err(error)?),
                Column::ClientId => client_id = Some(parsed(text).map_err(error)?),
                Column::Enabled => enabled = Some(yes_or_no(text).map_err(error)?),
                Column::Generate => generate = yes_or_no(text).map_err(error)?,
                Column::Secret => {
                    let text = Secret::new(text.to_owned());
                    let told = check_password(&text).map_err(error)?;
                    secret = Some((text, told));
                }
                Column::Meta(key) => {
                    meta.insert(key.clone(), Value::from(text));
                }
                Column::Bind(name) if yes_or_no(text).map_err(error)? => {
                    binding(&mut bindings, name);
                    conventional.push((name, at, title));
                }
                Column::Bind(_) => {}
                Column::StateTopic(name) => {
                    binding(&mut bindings, name).state_topic = Some(parsed(text).map_err(error)?);
                }
                Column::CommandTopic(name) => {
                    binding(&mut bindings, name).command_topic = Some(parsed(text).map_err(error)?);
                }
            }
        }
        let missing = |what: &str| LineError::at(1, what, "is empty");
        let name = name.ok_or_else(|| missing("name"))?;
        let home = Home {
            device: &name,
            area: area.as_ref().map(PlaceName::as_str),
            floor: floor.as_ref().map(PlaceName::as_str),
        };
        for (binding, column, title) in conventional {
            let Some(bound) = bindings.get_mut(binding) else { continue };
            let directions = self.directions.get(binding).copied().unwrap_or(Directions::BOTH);
            let topics = home.topics(binding, directions);
            let (state, command) = topics.map_err(|why| LineError::at(column, title, why))?;
            bound.state_topic = bound.state_topic.take().or(state);
            bound.command_topic = bound.command_topic.take().or(command);
        }
        let kind = kind.ok_or_else(|| missing("kind"))?;
        let mut device = Device::new(name, kind);
        (device.area, device.floor) = (area, floor);
        (device.client_id, device.enabled) = (client_id, enabled);
        device.bindings = bindings.into_values().collect();
        let meta = parsed::<Meta>(&Value::Object(meta).to_string());
        device.meta = meta.map_err(|why| LineError::at(1, "meta", why))?;
        let mut advice = None;
        let login = match (secret, generate) {
            (None, false) => Login::AsItIs,
            (None, true) => Login::Generate,
            (Some((secret, told)), false) => {
                advice = told;
                Login::Password(secret)
            }
            (Some(_), true) => {
                let why = "is yes though the line has a secret; leave one of them empty";
                return Err(LineError::at(1, "generate", why));
            }
        };
        let mut entry = Entry::new(Item::Device(Box::new(device)), login, Vec::new());
        entry.advice = advice;
        Ok(entry)
    }
}

fn binding<'a>(
    bindings: &'a mut BTreeMap<BindingName, Binding>,
    name: &BindingName,
) -> &'a mut Binding {
    bindings.entry(name.clone()).or_insert_with(|| Binding::without_topics(name.clone()))
}

fn parsed<T: FromStr<Err: ToString>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" | "true" | "1" => Ok(true),
        "no" | "false" | "0" => Ok(false),
        _ => Err("must be yes or no".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> Result<Vec<(String, usize)>, LineError> {
        let fields = Fields::split(line)?;
        Ok((0..fields.len())
            .map(|it| fields.get(it))
            .map(|(text, at)| (text.to_owned(), at))
            .collect())
    }

    #[test]
    fn a_line_is_split_at_its_commas() {
        let field = |text: &str, at| (text.to_owned(), at);
        assert_eq!(split("a,ä,c").unwrap(), [field("a", 1), field("ä", 3), field("c", 6)]);
        assert_eq!(split("").unwrap(), [field("", 1)]);
        assert_eq!(
            split(r#""a,""b""",,"#).unwrap(),
            [field("a,\"b\"", 1), field("", 11), field("", 12)]
        );
        assert_eq!(split(r#"a,"b"#).unwrap_err().column, 3);
        assert!(split(&",".repeat(2000)).is_err());
    }

    fn line(header: &str, line: &str) -> Result<Entry, LineError> {
        Csv::new(header, None).ok().unwrap().line(line)
    }

    #[test]
    fn a_line_becomes_a_device() {
        let header =
            "name,kind,area,floor,client_id,enabled,meta.room,bind.main,state_topic.light,generate";
        let entry =
            line(header, "t1,sensor,lab,2,c1,no,\"101, left\",yes,lab/light,yes").ok().unwrap();
        assert_eq!(
            entry.summary(),
            "device t1 (sensor), client id c1, disabled, secret that is generated, bound to light, bound to main"
        );
        let Item::Device(device) = &entry.item else { panic!("no device") };
        assert_eq!(device.meta.as_value(), &serde_json::json!({"room": "101, left"}));
        let main = &device.bindings[1];
        assert_eq!(main.state_topic.as_ref().unwrap().as_str(), "lab/2/t1/main/state");
        assert_eq!(main.command_topic.as_ref().unwrap().as_str(), "lab/2/t1/main/set");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_column() {
        for (header, text, expected) in [
            ("name,kind", "a/b,x", "column 1: name contains"),
            ("name,kind", "a", "has 1 fields; the header has 2"),
            ("name,kind", ",x", "name is empty"),
            ("name,kind,enabled", "a,x,maybe", "column 5: enabled must be yes or no"),
            ("name,kind,bind.main", "a,x,yes", "column 5: bind.main needs area and floor"),
            ("name,kind,secret,generate", "a,x,tops3cret,yes", "generate is yes though"),
            ("name,kind,secret", "a,x,\"tops3cret", "column 5: has a quote"),
        ] {
            let error = line(header, text).err().unwrap().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("tops3cret"), "{error}");
        }
        for header in ["", "kind", "name", "name,kind,x", "name,kind,name", "name,kind,bind.a/b"] {
            assert!(Csv::new(header, None).is_err(), "{header}");
        }
    }
}
