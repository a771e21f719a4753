//! The files that are read again while the policy stays as it is: certificates, the private key, the CA, revocation
//! lists, and secrets.
//!
//! Reads each of them as at load, with all its checks, and says what differs from what is in force. Whether a
//! certificate or a list can be used is not asked here; whether a secret can be one is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::opening::{self, Contents, Kind, NotOpened, Stamp};
use super::rights::Caller;
use super::secret::Secret;
use super::{ClientTrust, Listen, PemFile, Policy, PrivateKeyFile};
use crate::domain::alarm::Alarm;
use crate::domain::name::KeyName;

/// A file of a key's secrets.
#[derive(Clone, Debug)]
pub struct SecretFile {
    pub(super) key: KeyName,
    pub(super) path: PathBuf,
    /// What it held when it was last read; `None` when that could not be a secret.
    pub(super) secret: Option<Secret>,
}

/// One look at all files.
#[derive(Clone, Default)]
pub struct Look(BTreeMap<PathBuf, Reading>);

/// What one file came to.
#[derive(Clone)]
struct Reading {
    contents: Result<Arc<Contents>, NotOpened>,
    /// Whether the file had stood unchanged for a while already when it was read, so that no later change of it can
    /// leave the same times behind.
    settled: bool,
}

/// The certificates and keys of a look, or why they cannot be had.
#[derive(Debug)]
pub struct ListenFiles {
    /// The server's chain and key.
    pub server: Result<(Arc<PemFile>, Arc<PrivateKeyFile>), String>,
    /// The CA and the revocation lists.
    pub clients: Result<Option<ClientTrust>, String>,
}

/// What a look shows, sorted by what belongs together.
#[derive(Debug)]
pub struct Renewal {
    /// What `[listen]` names.
    pub files: Option<ListenFiles>,
    /// All files of secrets.
    pub secrets: Vec<SecretFile>,
    /// Files of secrets that verify nothing, by the alarm of their key.
    pub lost: BTreeMap<Alarm, String>,
}

/// Whether both saw the same, however often they looked.
impl PartialEq for Look {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().zip(&other.0).all(|((path, one), (other_path, other))| {
                path == other_path
                    && match (&one.contents, &other.contents) {
                        (Ok(one), Ok(other)) => one.is_like(other),
                        (Err(one), Err(other)) => one == other,
                        (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
                    }
            })
    }
}

impl Look {
    fn at(&self, path: &PathBuf) -> Result<&Arc<Contents>, NotOpened> {
        let reading = self.0.get(path).ok_or_else(|| NotOpened::Missing(path.clone()))?;
        reading.contents.as_ref().map_err(NotOpened::clone)
    }
}

impl Policy {
    /// Looks at all files; what has not changed since the look `before` is not read again. Blocks.
    #[must_use]
    pub fn look(&self, before: &Look) -> Look {
        let caller = Caller::current();
        let look = |(path, kind): (&PathBuf, Kind)| {
            let former =
                before.0.get(path).and_then(|reading| Some((reading, reading.contents.as_ref().ok()?)));
            let unchanged = former.filter(|(_, contents)| Stamp::of(path) == Some(contents.stamp));
            let reading = match unchanged {
                Some((reading, _)) if reading.settled => reading.clone(),
                known => {
                    let contents = opening::read(path, kind, &caller).map(Arc::new);
                    Reading { settled: known.is_some() && contents.is_ok(), contents }
                }
            };
            (path.clone(), reading)
        };
        Look(self.files().into_iter().map(look).collect())
    }

    /// Whether a look saw something else than what is in force.
    #[must_use]
    pub fn differs(&self, look: &Look) -> bool {
        let public = |file: &PemFile| {
            look.at(&file.path).is_ok_and(|seen| *seen.bytes == file.bytes && seen.modified == file.modified)
        };
        let key = |key: &PrivateKeyFile| {
            look.at(&key.path).is_ok_and(|seen| key.pem.expose() == seen.bytes.as_slice())
        };
        let same = self.listen.as_ref().is_none_or(|listen| {
            public(&listen.certificate)
                && key(&listen.private_key)
                && listen.clients.as_ref().is_none_or(|ClientTrust { ca, crl }| {
                    public(ca) && crl.as_ref().is_none_or(|crl| public(crl))
                })
        }) && self.secret_files.iter().all(|file| {
            let secret = self.secret(file, look).ok();
            secret.zip(file.secret.as_ref()).is_some_and(|(seen, used)| seen.is_same(used))
        });
        !same
    }

    /// What a look shows, ready to be tried.
    #[must_use]
    pub fn renewal(&self, look: &Look) -> Renewal {
        let public = |file: &Arc<PemFile>| {
            let seen = look.at(&file.path).map_err(|error| error.to_string())?;
            let (path, place) = (file.path.clone(), file.place.clone());
            Ok::<_, String>(Arc::new(PemFile {
                path,
                place,
                bytes: seen.bytes.to_vec(),
                modified: seen.modified,
            }))
        };
        let server = |listen: &Listen| {
            let PrivateKeyFile { path, place, .. } = &*listen.private_key;
            let seen = look.at(path).map_err(|error| error.to_string())?;
            let pem = Secret::copy(&seen.bytes);
            let key = PrivateKeyFile { path: path.clone(), place: place.clone(), pem };
            Ok((public(&listen.certificate)?, Arc::new(key)))
        };
        let clients = |ClientTrust { ca, crl }: &ClientTrust| {
            Ok(ClientTrust { ca: public(ca)?, crl: crl.as_ref().map(public).transpose()? })
        };
        let files = self.listen.as_ref().map(|listen| ListenFiles {
            server: server(listen),
            clients: listen.clients.as_ref().map(clients).transpose(),
        });
        let (secrets, lost) = self.secrets(look);
        Renewal { files, secrets, lost }
    }

    /// What `next`, which is this policy with other files, has otherwise.
    #[must_use]
    pub fn changes(&self, next: &Self) -> Vec<String> {
        let mut changed = Vec::new();
        if let (Some(old), Some(new)) = (&self.listen, &next.listen) {
            if old.certificate.bytes != new.certificate.bytes
                || old.private_key.pem.expose() != new.private_key.pem.expose()
            {
                changed.push(Alarm::Certificate.to_string());
            }
            let trust = old.clients.as_ref().zip(new.clients.as_ref());
            if trust.is_some_and(|(old, new)| !old.is_like(new)) {
                changed.push(Alarm::Trust.to_string());
            }
        }
        for (file, other) in self.secret_files.iter().zip(&next.secret_files) {
            let same = match (&file.secret, &other.secret) {
                (Some(one), Some(other)) => one.is_same(other),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            let name = Alarm::Secret(file.key.clone()).to_string();
            if !same && changed.last() != Some(&name) {
                changed.push(name);
            }
        }
        changed
    }

    /// This policy with other secrets.
    #[must_use]
    pub fn with_secrets(&self, secrets: Vec<SecretFile>) -> Self {
        let mut policy = self.clone();
        for (name, key) in &mut policy.keys {
            let own = secrets.iter().filter(|file| file.key == *name);
            key.secrets = own.filter_map(|file| file.secret.clone()).collect();
        }
        policy.secret_files = secrets;
        policy
    }

    /// Every file of secrets as a look shows it. One that cannot be a secret, or that is another key's, too, is none.
    fn secrets(&self, look: &Look) -> (Vec<SecretFile>, BTreeMap<Alarm, String>) {
        let mut files: Vec<SecretFile> = Vec::with_capacity(self.secret_files.len());
        let mut lost: BTreeMap<Alarm, String> = BTreeMap::new();
        for file in &self.secret_files {
            let read = || {
                let secret = self.secret(file, look)?;
                let same = |other: &&SecretFile| {
                    other.key != file.key && other.secret.as_ref().is_some_and(|it| it.is_same(&secret))
                };
                match files.iter().find(same) {
                    Some(other) => {
                        Err(format!("`{}`: the key `{}` has the same secret", file.path.display(), other.key))
                    }
                    None => Ok(secret),
                }
            };
            let secret = match read() {
                Ok(secret) => Some(secret),
                Err(reason) => {
                    let said = lost.entry(Alarm::Secret(file.key.clone())).or_default();
                    let parts = [said.as_str(), &reason].into_iter().filter(|part| !part.is_empty());
                    *said = parts.collect::<Vec<_>>().join("; ");
                    None
                }
            };
            files.push(SecretFile { secret, ..file.clone() });
        }
        (files, lost)
    }

    /// What a file holds, as its key's scheme reads it.
    fn secret(&self, file: &SecretFile, look: &Look) -> Result<Secret, String> {
        let seen = look.at(&file.path).map_err(|error| error.to_string())?;
        let at = |why: &dyn std::fmt::Display| format!("`{}`: {why}", file.path.display());
        let key = self.keys.get(&file.key).ok_or_else(|| at(&"its key is gone"))?;
        key.scheme.secret(&seen.bytes).map_err(|error| at(&error))
    }

    fn files(&self) -> Vec<(&PathBuf, Kind)> {
        let mut all = Vec::new();
        if let Some(listen) = &self.listen {
            all.push((&listen.certificate.path, Kind::Certificates));
            all.push((&listen.private_key.path, Kind::Secret));
            if let Some(ClientTrust { ca, crl }) = &listen.clients {
                all.push((&ca.path, Kind::Certificates));
                all.extend(crl.iter().map(|crl| (&crl.path, Kind::RevocationLists)));
            }
        }
        all.extend(self.secret_files.iter().map(|file| (&file.path, Kind::Secret)));
        all
    }
}
