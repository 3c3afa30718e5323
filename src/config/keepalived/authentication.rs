//! `authentication` of an instance.

use super::syntax::Statement;
use super::{argument, block, check_leaf, unknown};
use crate::config::diagnostic::{Diagnostic, Located, Log, nearest};
use crate::vrrp::{Auth, Password};

/// `{ auth_type PASS|AH, auth_pass X }`.
pub(super) fn read(statement: &Statement, log: &Log) -> Option<Located<Auth>> {
    const KNOWN: [&str; 2] = ["auth_type", "auth_pass"];
    let (mut kind, mut pass) = (None, None);
    for line in block(statement, log) {
        match line.keyword.text.as_str() {
            "auth_type" => kind = argument(line, log),
            "auth_pass" => pass = argument(line, log),
            _ => unknown(&line.keyword, &KNOWN, log),
        }
        check_leaf(line, &KNOWN, log);
    }
    let place = statement.keyword.place.clone();
    let (Some(kind), Some(pass)) = (kind, pass) else {
        log.add(Diagnostic::error(&place, "`authentication` needs `auth_type` and `auth_pass`"));
        return None;
    };
    let mut authenticated = false;
    match kind.value.as_str() {
        "PASS" => {}
        "AH" => authenticated = true,
        _ => {
            let error = Diagnostic::error(&kind.place, "`auth_type` is PASS or AH");
            log.add(error.did_you_mean(nearest(&kind.value, ["PASS", "AH"])));
            return None;
        }
    }
    if pass.value.len() > Password::MAX {
        let message = format!("only the first {} bytes of `auth_pass` are used, as by keepalived", Password::MAX);
        log.add(Diagnostic::warning(&pass.place, message));
    }
    let password = Password::cut(&pass.value);
    Some(Located { value: if authenticated { Auth::Ah(password) } else { Auth::Pass(password) }, place })
}
