//! Who is told of a VIP group's states: `[notify]`, for all groups, and `vip.NAME.notify`.

use super::diagnostic::{Diagnostic, Located, Log};
use super::reader::{Section, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// How long a script may take when nothing else is said; keepalived lets it run for ever.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// Of a mail server, when none is given.
const MAIL_PORT: u16 = 25;
/// For what is run once; keepalived's.
pub(super) const ONCE_TIMEOUT: Duration = Duration::from_secs(10);
/// For a mail; keepalived's.
const MAIL_TIMEOUT: Duration = Duration::from_secs(30);

/// What one VIP group tells of itself, beside the lines in the FIFOs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notify {
    /// What is run when.
    pub scripts: BTreeMap<Occasion, Command>,
    /// Whether changes of its priority are told to the FIFOs.
    pub priority_changes: bool,
    /// Whether its states are mailed.
    pub mail: bool,
}

/// When a script is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Occasion {
    /// The group is MASTER here.
    Master,
    /// It is BACKUP.
    Backup,
    /// It is in FAULT.
    Fault,
    /// hamesh stops.
    Stop,
    /// A reload has removed the group; without a script for it that is told as FAULT.
    Deleted,
    /// A router of lower priority advertises beside us.
    MasterRxLowerPri,
    /// Each of these states, with the arguments of keepalived's `notify` appended.
    Any,
}

impl Occasion {
    /// With the keys that they have in the files.
    pub(super) const ALL: [(&str, Self); 7] = [
        ("master", Self::Master),
        ("backup", Self::Backup),
        ("fault", Self::Fault),
        ("stop", Self::Stop),
        ("deleted", Self::Deleted),
        ("master_rx_lower_pri", Self::MasterRxLowerPri),
        ("any", Self::Any),
    ];
}

/// A program to run, without a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// An absolute path, or a name to look for in `PATH`, and its arguments.
    pub words: Vec<String>,
    /// Whom it runs as; `None`: as hamesh does.
    pub user: Option<String>,
}

/// `[notify]`: what is the same for all groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notifications {
    /// Where a line is written for every change.
    pub fifos: Vec<Fifo>,
    /// Whether a reload writes the state of each group into them again.
    pub again: bool,
    /// Who is written to.
    pub mail: Option<Mail>,
    /// A script that takes longer is killed; at least 10 ms.
    pub timeout: Duration,
    /// What is run before a director begins.
    pub startup: Option<Once>,
    /// What is run after it has ended.
    pub shutdown: Option<Once>,
}

/// A program that is run once, and waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Once {
    /// The program.
    pub command: Command,
    /// One that takes longer is killed; at least 10 ms.
    pub timeout: Duration,
}

impl Default for Notifications {
    fn default() -> Self {
        Self { fifos: Vec::new(), again: false, mail: None, timeout: DEFAULT_TIMEOUT, startup: None, shutdown: None }
    }
}

/// A named pipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fifo {
    /// It is made where it is not there.
    pub path: PathBuf,
    /// What is written into it; `None`: everything.
    pub about: Option<Topic>,
    /// A reader that is started with hamesh, with the path as its last argument.
    pub script: Option<Command>,
}

/// What a line in a FIFO is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// VIP groups and sync groups: their states.
    Vips,
    /// Services and their servers: whether they are up.
    Services,
}

const TOPICS: [(&str, Topic); 2] = [("vips", Topic::Vips), ("services", Topic::Services)];

/// How mail goes out: SMTP without encryption, as to the machine's own mail server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// What the subjects begin with; `None`: the node's name.
    pub name: Option<String>,
    /// HOST:PORT.
    pub server: String,
    /// What is said in HELO; `None`: the node's name.
    pub helo: Option<String>,
    /// The sender; `None`: root at the node.
    pub from: Option<String>,
    /// The recipients; at least one.
    pub to: Vec<String>,
    /// For the whole dialogue.
    pub timeout: Duration,
    /// Whether FAULT is mailed too.
    pub faults: bool,
}

impl Mail {
    /// With keepalived's defaults.
    pub(crate) fn to(to: Vec<String>) -> Self {
        let server = server("127.0.0.1", None);
        Self { name: None, server, helo: None, from: None, to, timeout: MAIL_TIMEOUT, faults: true }
    }
}

/// HOST, HOST:PORT, and keepalived's HOST PORT.
pub(super) fn server(host: &str, port: Option<u16>) -> String {
    let (bare, given) = match host.rsplit_once(':') {
        Some((bare, given)) if !bare.contains(':') || bare.ends_with(']') => (bare, given.parse().ok()),
        Some(_) | None => (host, None),
    };
    let port = port.or(given).unwrap_or(MAIL_PORT);
    if bare.contains(':') && !bare.starts_with('[') { format!("[{bare}]:{port}") } else { format!("{bare}:{port}") }
}

/// Mail is lines of text, and an address is one word of them.
pub(super) fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_control() || c.is_whitespace() || matches!(c, '<' | '>'))
}

/// What wants to mail its states, and has nobody to mail them to.
pub(super) fn mailed_to_nobody(name: &Located<String>) -> Diagnostic {
    let warning = Diagnostic::warning(&name.place, format!("the states of `{}` are mailed to nobody", name.value));
    warning.help("name somebody: `notify.mail`, in keepalived.conf `notification_email`")
}

/// Reads `vip.NAME.notify`.
pub(super) fn read_group(value: Value<'_>, log: &Log) -> Notify {
    let Some(section) = value.table() else { return Notify::default() };
    let script = |(key, occasion): (&'static str, Occasion)| Some((occasion, read_command(section.get(key)?, log)?));
    let scripts = Occasion::ALL.into_iter().filter_map(script).collect();
    let flag = |key| section.get(key).and_then(Value::boolean).is_some_and(|value| value.value);
    let notify = Notify { scripts, priority_changes: flag("priority_changes"), mail: flag("mail") };
    section.close();
    notify
}

/// `{ command = ["/absolute/path", "argument"], user = "NAME" }`.
pub(super) fn read_command(value: Value<'_>, log: &Log) -> Option<Command> {
    let section = value.table()?;
    let command = command_of(&section, log);
    section.close();
    command
}

fn command_of(section: &Section<'_>, log: &Log) -> Option<Command> {
    let words = section.required("command").and_then(|value| super::track::read_command(value, log));
    let user = section.get("user").and_then(Value::string).map(|user| user.value);
    Some(Command { words: words?, user })
}

/// The same with a `timeout` of its own.
fn read_once(value: Value<'_>, log: &Log) -> Option<Once> {
    let section = value.table()?;
    let command = command_of(&section, log);
    let timeout = read_timeout(&section, ONCE_TIMEOUT, log);
    section.close();
    Some(Once { command: command?, timeout })
}

fn read_timeout(section: &Section<'_>, usual: Duration, log: &Log) -> Duration {
    let timeout = section.get("timeout").and_then(Value::duration);
    if let Some(short) = timeout.as_ref().filter(|timeout| timeout.value < Duration::from_millis(10)) {
        log.add(Diagnostic::error(&short.place, "a script needs at least 10ms"));
    }
    timeout.map_or(usual, |timeout| timeout.value)
}

/// Reads `[notify]`.
pub(super) fn read(section: Section<'_>, log: &Log) -> Notifications {
    let fifos = section.get("fifo").and_then(Value::list).unwrap_or_default();
    let notifications = Notifications {
        fifos: fifos.into_iter().filter_map(|value| read_fifo(value, log)).collect(),
        again: section.get("fifo_on_reload").and_then(Value::boolean).is_some_and(|again| again.value),
        mail: section.get("mail").and_then(|value| read_mail(value, log)),
        timeout: read_timeout(&section, DEFAULT_TIMEOUT, log),
        startup: section.get("startup").and_then(|value| read_once(value, log)),
        shutdown: section.get("shutdown").and_then(|value| read_once(value, log)),
    };
    section.close();
    notifications
}

fn read_fifo(value: Value<'_>, log: &Log) -> Option<Fifo> {
    let section = value.table()?;
    let path = section.required("path").and_then(Value::string);
    let about = section.get("about").and_then(|value| value.choice(&TOPICS)).map(|about| about.value);
    let script = section.get("script").and_then(|value| read_command(value, log));
    section.close();
    let path = path?;
    Some(Fifo { path: path.place.source.resolve(&path.value), about, script })
}

fn read_mail(value: Value<'_>, log: &Log) -> Option<Mail> {
    let place = value.place.clone();
    let section = value.table()?;
    let word = |value: Value<'_>| {
        let Located { value, place } = value.string()?;
        if !is_word(&value) {
            log.add(Diagnostic::error(&place, format!("`{value}` cannot stand in a mail")));
        }
        Some(value)
    };
    let text = |key| section.get(key).and_then(word);
    let to = section.required("to").and_then(Value::list).unwrap_or_default();
    let mut mail = Mail::to(to.into_iter().filter_map(word).collect());
    if mail.to.is_empty() {
        log.add(
            Diagnostic::error(&place, "`notify.mail` needs somebody to write to").help("to = [\"root@localhost\"]"),
        );
    }
    (mail.name, mail.helo, mail.from) = (text("name"), text("helo"), text("from"));
    mail.server = text("server").map_or(mail.server, |host| server(&host, None));
    mail.timeout = section.get("timeout").and_then(Value::duration).map_or(mail.timeout, |timeout| timeout.value);
    mail.faults = section.get("faults").and_then(Value::boolean).is_none_or(|value| value.value);
    section.close();
    Some(mail)
}

/// The lines of `[vip.NAME]` that say this.
pub(super) fn show_group(notify: &Notify, quoted: fn(&str) -> String) -> Option<String> {
    let Notify { scripts, priority_changes, mail } = notify;
    let key = |occasion: &Occasion| Occasion::ALL.iter().find(|(_, o)| o == occasion).map_or("", |(key, _)| key);
    let script = |(occasion, command)| format!("{} = {}", key(occasion), show_command(command, quoted));
    let mut parts: Vec<String> = scripts.iter().map(script).collect();
    parts.extend(priority_changes.then(|| "priority_changes = true".to_owned()));
    parts.extend(mail.then(|| "mail = true".to_owned()));
    (!parts.is_empty()).then(|| format!("notify = {{ {} }}", parts.join(", ")))
}

/// As [`read_command`] reads it.
pub(super) fn show_command(command: &Command, quoted: fn(&str) -> String) -> String {
    format!("{{ {} }}", show_words(command, quoted))
}

fn show_words(Command { words, user }: &Command, quoted: fn(&str) -> String) -> String {
    let words: Vec<_> = words.iter().map(|word| quoted(word)).collect();
    let user = user.as_ref().map(|user| format!(", user = {}", quoted(user))).unwrap_or_default();
    format!("command = [{}]{user}", words.join(", "))
}

/// `[notify]`, where it says anything.
pub(super) fn show(notify: &Notifications, quoted: fn(&str) -> String, seconds: fn(Duration) -> String) -> String {
    let Notifications { fifos, again, mail, timeout, startup, shutdown } = notify;
    if *notify == Notifications::default() {
        return String::new();
    }
    let mut text = format!("\n[notify]\ntimeout = {}\n", seconds(*timeout));
    let fifo = |Fifo { path, about, script }: &Fifo| {
        let word = TOPICS.iter().find(|(_, topic)| Some(*topic) == *about);
        let about = word.map(|(word, _)| format!(", about = {}", quoted(word))).unwrap_or_default();
        let script = script.as_ref().map(|script| format!(", script = {}", show_command(script, quoted)));
        format!("{{ path = {}{about}{} }}", quoted(&path.display().to_string()), script.unwrap_or_default())
    };
    if !fifos.is_empty() {
        text += &format!("fifo = [{}]\n", fifos.iter().map(fifo).collect::<Vec<_>>().join(", "));
    }
    if *again {
        text += "fifo_on_reload = true\n";
    }
    for (key, once) in [("startup", startup), ("shutdown", shutdown)] {
        if let Some(Once { command, timeout }) = once {
            text += &format!("{key} = {{ {}, timeout = {} }}\n", show_words(command, quoted), seconds(*timeout));
        }
    }
    if let Some(Mail { name, server, helo, from, to, timeout, faults }) = mail {
        let to: Vec<_> = to.iter().map(|to| quoted(to)).collect();
        text += &format!("mail = {{ to = [{}], server = {}", to.join(", "), quoted(server));
        for (key, value) in [("name", name), ("helo", helo), ("from", from)] {
            text += &value.as_ref().map(|value| format!(", {key} = {}", quoted(value))).unwrap_or_default();
        }
        text += &format!(", timeout = {}, faults = {faults} }}\n", seconds(*timeout));
    }
    text
}
