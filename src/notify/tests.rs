use super::*;
use proptest::prelude::*;

fn web() -> Object {
    Object::Instance("web".to_owned())
}

fn command(words: &[&str]) -> Command {
    Command { words: words.iter().map(|word| (*word).to_owned()).collect(), user: None }
}

fn general() -> Notifications {
    let fifo = Fifo { path: "/run/fifo".into(), about: None, script: None };
    Notifications { fifos: vec![fifo], ..Notifications::default() }
}

fn notifier(notify: Notify) -> Notifier {
    Notifier::new("lb1", &general(), [(web(), notify)])
}

fn all() -> Notify {
    let scripts = [
        (Occasion::Master, command(&["/m", "a b"])),
        (Occasion::Backup, command(&["/b"])),
        (Occasion::Stop, command(&["/s"])),
        (Occasion::MasterRxLowerPri, command(&["/l"])),
        (Occasion::Any, command(&["/any", "x"])),
    ];
    Notify { scripts: scripts.into(), ..Notify::default() }
}

fn notice(what: What, token: Option<u64>) -> Event {
    Event::Notice(Notice { object: web(), what, priority: 150, token })
}

/// The words of what is run.
fn runs(actions: &[Action]) -> Vec<String> {
    let run = |action: &Action| match action {
        Action::Run(_, run) => Some(run.command.words.join(" ")),
        Action::Write(..) | Action::Mail(_) | Action::GivenUp(..) => None,
    };
    actions.iter().filter_map(run).collect()
}

fn lines(actions: &[Action]) -> String {
    let line = |action: &Action| match action {
        Action::Write(_, line) => Some(line.clone()),
        Action::Run(..) | Action::Mail(_) | Action::GivenUp(..) => None,
    };
    actions.iter().filter_map(line).collect()
}

#[test]
fn scripts_get_keepaliveds_arguments_one_after_the_other_with_the_token() {
    let mut notifier = notifier(all());
    let begun = notifier.handle(notice(What::Master, Some(7)));
    assert_eq!(runs(&begun), ["/m a b"]);
    assert_eq!(lines(&begun), "INSTANCE \"web\" MASTER 150\n");
    let run = Run { command: command(&["/m", "a b"]), token: Some(7) };
    assert!(begun.contains(&Action::Run(Queue::Vip(web()), run)));
    // What follows waits.
    let more = notifier.handle(notice(What::Backup, Some(7)));
    assert_eq!(runs(&more), [""; 0]);
    assert_eq!(lines(&more), "INSTANCE \"web\" BACKUP 150\n");
    for next in ["/any x INSTANCE web MASTER 150", "/b", "/any x INSTANCE web BACKUP 150"] {
        assert!(!notifier.is_done());
        assert_eq!(runs(&notifier.handle(Event::Ended(Queue::Vip(web())))), [next]);
    }
    assert_eq!(runs(&notifier.handle(Event::Ended(Queue::Vip(web())))), [""; 0]);
    assert!(notifier.is_done());
}

#[test]
fn what_is_no_state_is_told_to_whom_it_concerns() {
    let mut quiet = notifier(all());
    let lower = quiet.handle(notice(What::MasterRxLowerPri, None));
    assert_eq!(lines(&lower), "INSTANCE \"web\" MASTER_RX_LOWER_PRI 150\n");
    assert_eq!(runs(&lower), ["/l"]);
    assert_eq!(quiet.handle(notice(What::BackupPriority, None)), []);
    let mut curious = notifier(Notify { priority_changes: true, ..all() });
    assert_eq!(lines(&curious.handle(notice(What::MasterPriority, None))), "INSTANCE \"web\" MASTER_PRIORITY 150\n");
}

#[test]
fn a_stop_is_told_of_what_was_ever_told() {
    let other = Object::Instance("other".to_owned());
    let mut notifier = Notifier::new("lb1", &general(), [(web(), all()), (other, all())]);
    notifier.handle(notice(What::Master, Some(7)));
    let stop = notifier.handle(Event::Stopped);
    assert_eq!(lines(&stop), "INSTANCE \"web\" STOP 150\n");
    for next in ["/any x INSTANCE web MASTER 150", "/s", "/any x INSTANCE web STOP 150"] {
        let actions = notifier.handle(Event::Ended(Queue::Vip(web())));
        assert_eq!(runs(&actions), [next]);
    }
}

#[test]
fn a_reload_changes_what_is_told_from_then_on() {
    let mut notifier = notifier(all());
    notifier.handle(notice(What::Master, None));
    let scripts = [(Occasion::Fault, command(&["/new"]))];
    let other = Object::Instance("other".to_owned());
    notifier.adopt(&general(), [(other.clone(), Notify { scripts: scripts.into(), ..Notify::default() })]);
    let theirs = Notice { object: other, what: What::Fault, priority: 1, token: None };
    assert_eq!(runs(&notifier.handle(Event::Notice(theirs))), ["/new"]);
    // The one that leaves is told of until it has left, and that once.
    assert_eq!(lines(&notifier.handle(notice(What::Fault, None))), "INSTANCE \"web\" FAULT 150\n");
    assert_eq!(lines(&notifier.handle(Event::Stopped)), "INSTANCE \"other\" STOP 1\n");
}

#[test]
fn mails_have_keepaliveds_subjects() {
    let mail = Mail { faults: false, ..Mail::to(vec!["root@localhost".to_owned()]) };
    let general = Notifications { mail: Some(mail), ..Notifications::default() };
    let mut notifier = Notifier::new("lb1", &general, [(web(), Notify { mail: true, ..Notify::default() })]);
    let subjects = |actions: Vec<Action>| {
        let subject = |action: Action| match action {
            Action::Mail(message) => Some(message.subject),
            Action::Run(..) | Action::Write(..) | Action::GivenUp(..) => None,
        };
        actions.into_iter().filter_map(subject).collect::<Vec<_>>()
    };
    assert_eq!(
        subjects(notifier.handle(notice(What::Master, None))),
        ["[lb1] VRRP Instance web - Entering MASTER state"]
    );
    assert_eq!(subjects(notifier.handle(notice(What::Fault, None))), [""; 0]);
    assert_eq!(subjects(notifier.handle(Event::Stopped)), ["[lb1] VRRP Instance web - Stopping"]);
}

#[test]
fn behind_a_script_that_hangs_the_latest_wait_and_others_do_not() {
    let other = Object::Instance("other".to_owned());
    let mut notifier = Notifier::new("lb1", &general(), [(web(), all()), (other.clone(), all())]);
    let mut given_up = 0;
    for _ in 0..100 {
        for what in [What::Master, What::Backup] {
            let actions = notifier.handle(notice(what, None));
            given_up += actions.iter().filter(|action| matches!(action, Action::GivenUp(..))).count();
        }
    }
    assert_eq!(given_up, 400 - 1 - LONGEST);
    let theirs = Notice { object: other, what: What::Master, priority: 1, token: None };
    assert_eq!(runs(&notifier.handle(Event::Notice(theirs))), ["/m a b"]);
    let mut last = Vec::new();
    while notifier.queues.get(&Queue::Vip(web())).is_some_and(|waiting| !waiting.is_empty()) {
        last = runs(&notifier.handle(Event::Ended(Queue::Vip(web()))));
    }
    assert_eq!(last, ["/any x INSTANCE web BACKUP 150"], "the latest state is told in the end");
}

proptest! {
    /// For one group at most one script runs, and those that run are in the order of the notices.
    #[test]
    fn in_order_and_never_two(events in proptest::collection::vec(proptest::option::of(0u64..1000), 1..200)) {
        let mut notifier = notifier(all());
        let (mut running, mut last, mut told) = (0, None, 0);
        for event in events {
            let actions = match event {
                Some(_) => {
                    told += 1;
                    notifier.handle(notice(What::Master, Some(told)))
                }
                None if running == 0 => continue,
                None => {
                    running -= 1;
                    notifier.handle(Event::Ended(Queue::Vip(web())))
                }
            };
            for action in actions {
                if let Action::Run(_, run) = action {
                    running += 1;
                    prop_assert!(running == 1 && run.token >= last);
                    last = run.token;
                }
            }
        }
    }
}

#[test]
fn what_is_told_of_services_is_in_keepaliveds_words() {
    let fifo = |path: &str, about| Fifo { path: path.into(), about, script: None };
    let fifos = vec![fifo("/run/vips", Some(Topic::Vips)), fifo("/run/services", Some(Topic::Services))];
    let mail = Some(Mail { name: Some("LVS_1".to_owned()), ..Mail::to(vec!["noc".to_owned()]) });
    let mut notifier = Notifier::new("lb1", &Notifications { fifos, mail, ..Notifications::default() }, []);
    let change = |server: Option<&str>, up, words: &[&str]| {
        let script = (!words.is_empty()).then(|| command(words));
        let (service, server) = ("[10.0.0.1]:tcp:80".to_owned(), server.map(str::to_owned));
        Event::Change(Change { service, server, up, script, mail: Some("why".to_owned()) })
    };
    let mailed = |actions: &[Action]| {
        let mail = |action: &Action| match action {
            Action::Mail(mail) => Some(format!("{}: {}", mail.subject, mail.body)),
            Action::Run(..) | Action::Write(..) | Action::GivenUp(..) => None,
        };
        actions.iter().find_map(mail).unwrap_or_default()
    };
    let server = notifier.handle(change(Some("[10.0.1.1]:tcp:8080"), false, &["/down"]));
    assert!(
        server.contains(&Action::Write(Topic::Services, "RS [10.0.1.1]:tcp:8080 [10.0.0.1]:tcp:80 DOWN\n".to_owned()))
    );
    assert_eq!(
        mailed(&server),
        "[LVS_1] Realserver [10.0.1.1]:tcp:8080 of virtual server [10.0.0.1]:tcp:80 - DOWN: => why <="
    );
    assert_eq!(runs(&server), ["/down"]);
    let service = notifier.handle(change(None, true, &[]));
    assert_eq!(lines(&service), "VS [10.0.0.1]:tcp:80 UP\n");
    assert_eq!(mailed(&service), "[LVS_1] Virtualserver [10.0.0.1]:tcp:80 - UP: => why <=");
    // One server's scripts wait for each other, and another's do not.
    assert_eq!(runs(&notifier.handle(change(Some("[10.0.1.1]:tcp:8080"), true, &["/up"]))), [""; 0]);
    assert_eq!(runs(&notifier.handle(change(Some("[10.0.1.2]:tcp:8080"), true, &["/other"]))), ["/other"]);
    let queue = |server: &str| Queue::Service("[10.0.0.1]:tcp:80".to_owned(), Some(server.to_owned()));
    assert_eq!(runs(&notifier.handle(Event::Ended(queue("[10.0.1.1]:tcp:8080")))), ["/up"]);
    assert!(!notifier.is_done());
    notifier.handle(Event::Ended(queue("[10.0.1.1]:tcp:8080")));
    notifier.handle(Event::Ended(queue("[10.0.1.2]:tcp:8080")));
    assert!(notifier.is_done());
}

#[test]
fn one_that_is_removed_is_deleted_where_a_script_waits_for_it_and_in_fault_elsewhere() {
    let mut plain = notifier(all());
    assert_eq!(lines(&plain.handle(notice(What::Deleted, None))), "INSTANCE \"web\" FAULT 150\n");
    let mut notify = all();
    notify.scripts.insert(Occasion::Deleted, command(&["/gone"]));
    let actions = notifier(notify).handle(notice(What::Deleted, None));
    assert_eq!(lines(&actions), "INSTANCE \"web\" DELETED 150\n");
    assert_eq!(runs(&actions), ["/gone"]);
}

#[test]
fn a_reload_writes_the_states_again_where_it_is_to() {
    for (again, written) in [(false, ""), (true, "INSTANCE \"web\" MASTER 150\n")] {
        let general = Notifications { again, ..general() };
        let mut notifier = Notifier::new("lb1", &general, [(web(), all())]);
        notifier.handle(notice(What::Master, None));
        notifier.adopt(&general, [(web(), all()), (Object::Instance("new".to_owned()), all())]);
        assert_eq!(lines(&notifier.again()), written);
    }
}
