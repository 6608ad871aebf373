//! The two dates of a certificate, for the one case in which we check them ourselves, and dates
//! as text.

use rustls::CertificateError;
use rustls::pki_types::UnixTime;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `version [0] EXPLICIT`, absent from certificates of version 1.
const VERSION: u8 = 0xa0;

/// Is `now` within the validity of this DER certificate?
pub(crate) fn check_dates(certificate: &[u8], now: UnixTime) -> Result<(), CertificateError> {
    let (not_before, not_after) = validity(certificate).ok_or(CertificateError::BadEncoding)?;
    // i64 holds every second of the years 0 to 9999, UnixTime none before 1970.
    let moment = |seconds: i64| {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(
            u64::try_from(seconds).unwrap_or(0),
        ))
    };
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if seconds < not_before {
        Err(CertificateError::NotValidYetContext {
            time: now,
            not_before: moment(not_before),
        })
    } else if seconds > not_after {
        Err(CertificateError::ExpiredContext {
            time: now,
            not_after: moment(not_after),
        })
    } else {
        Ok(())
    }
}

fn validity(certificate: &[u8]) -> Option<(i64, i64)> {
    let (certificate, _) = expect(certificate, SEQUENCE)?;
    let (tbs, _) = expect(certificate, SEQUENCE)?;
    let rest = match expect(tbs, VERSION) {
        Some((_, rest)) => rest,
        None => tbs,
    };
    let (_serial, rest) = expect(rest, INTEGER)?;
    let (_signature_algorithm, rest) = expect(rest, SEQUENCE)?;
    let (_issuer, rest) = expect(rest, SEQUENCE)?;
    let (validity, _) = expect(rest, SEQUENCE)?;
    let (not_before, rest) = time(validity)?;
    let (not_after, _) = time(rest)?;
    Some((not_before, not_after))
}

/// Split the first element off: (its contents, what follows it).
fn expect(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // The length of the length: up to 4 bytes are more than any certificate needs.
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = digits
                .iter()
                .fold(0usize, |length, &digit| (length << 8) | usize::from(digit));
            (length, rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// YYMMDDHHMMSSZ or YYYYMMDDHHMMSSZ, the only forms that RFC 5280 allows.
fn time(der: &[u8]) -> Option<(i64, &[u8])> {
    let (text, rest, year_digits) = match *der.first()? {
        UTC_TIME => expect(der, UTC_TIME).map(|(text, rest)| (text, rest, 2))?,
        GENERALIZED_TIME => expect(der, GENERALIZED_TIME).map(|(text, rest)| (text, rest, 4))?,
        _ => return None,
    };
    let digits = text.strip_suffix(b"Z")?;
    if digits.len() != year_digits + 10 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |digits: &[u8]| {
        digits
            .iter()
            .fold(0, |number, &digit| number * 10 + i64::from(digit - b'0'))
    };
    let (year, rest_digits) = digits.split_at(year_digits);
    let year = match (year_digits, number(year)) {
        (2, year @ 50..) => 1900 + year, // RFC 5280, section 4.1.2.5.1
        (2, year) => 2000 + year,
        (_, year) => year,
    };
    let field = |index: usize| number(&rest_digits[index * 2..index * 2 + 2]); // 10 digits, checked above
    let (month, day) = (field(0), field(1));
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let seconds = field(2) * 3600 + field(3) * 60 + field(4);
    Some((days_since_epoch(year, month, day) * 86_400 + seconds, rest))
}

// The calendar repeats every 400 years, which have 146,097 days. Years are counted from March, so
// that the leap day is a year's last; (153 m + 2) / 5 is the number of days before month m of such
// a year. 719,468 days lie between 0000-03-01 and 1970-01-01.

fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// 2026-05-20T12:00:00Z
pub(crate) fn iso(time: UnixTime) -> String {
    let seconds = time.as_secs();
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = (shifted_month + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
    }

    #[test]
    fn calendar() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59Z", 951_868_799),
            ("2026-11-22T22:10:05Z", 1_795_385_405),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
        ] {
            assert_eq!(iso(at(seconds)), text);
            let digits: String = text.chars().filter(char::is_ascii_digit).collect();
            let mut der = vec![GENERALIZED_TIME, 15];
            der.extend(digits.bytes());
            der.push(b'Z');
            assert_eq!(time(&der), Some((seconds as i64, &[][..])));
        }
        assert_eq!(
            time(b"\x17\x0d491231235959Z").map(|t| t.0),
            Some(2_524_607_999)
        );
        assert_eq!(
            time(b"\x17\x0d500101000000Z").map(|t| t.0),
            Some(-631_152_000)
        );
    }

    #[test]
    fn hostile_encodings_are_refused() {
        for der in [
            &b""[..],
            b"\x30",
            b"\x30\x80",
            b"\x30\x84\xff\xff\xff\xff",
            b"\x30\x02\x30\x05",
        ] {
            assert_eq!(check_dates(der, at(0)), Err(CertificateError::BadEncoding));
        }
        for der in [
            &b"\x17\x0d4912312359590"[..],
            b"\x17\x0d991331235959Z",
            b"\x17\x01Z",
            b"\x16\x01Z",
        ] {
            assert_eq!(time(der), None);
        }
    }
}
