//! The generation in force, and its exchange for another one in a single atomic swap.
//!
//! A new one is prepared and proven beside the old one; until it stands, and whenever it does not, nothing changes.
//! Whoever has begun with a generation ends with it.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio::sync::{Mutex, watch};
use tower::ServiceExt as _;

use super::generation::Generation;
use crate::audit::{Cause, Record, Recorder};
use crate::clock::Clock;
use crate::domain::alarm::Alarm;
use crate::policy::diagnostic::Diagnostics;
use crate::policy::renewal::Look;
use crate::policy::{InForce, Policy};
use crate::queue::sqlite::Store;
use crate::{gate, listener};

/// Most errors of a policy that go on record.
const MOST_TOLD: usize = 10;
/// The same words each time, so that what goes on happening is one alarm.
const BROKEN: &str = "an internal error, of which the log says more; please report it";

/// What is in force; clones share it.
#[derive(Clone)]
pub struct Live(Arc<Inner>);

struct Inner {
    now: ArcSwap<Serving>,
    /// One exchange at a time, and the alarms that the last one found worth raising of files.
    exchange: Mutex<BTreeMap<Alarm, String>>,
    /// What the network is shown of a generation; unset in a process that does not face it.
    face: OnceLock<MakeFace>,
    /// Tells the listener; set with `face`.
    settings: OnceLock<watch::Sender<Arc<listener::Settings>>>,
    /// Whose bounds are the policy's; unset in a process that keeps no jobs.
    store: OnceLock<Store>,
    recorder: Recorder,
    clock: Clock,
}

type MakeFace = Box<dyn Fn(&Generation, Option<&Face>) -> Option<Face> + Send + Sync>;

struct Serving {
    generation: Arc<Generation>,
    face: Option<Face>,
}

/// What the network is shown of a generation.
pub(super) struct Face {
    pub(super) router: Router,
    pub(super) counters: gate::Counters,
    pub(super) settings: Arc<listener::Settings>,
}

/// What was put in force.
#[derive(Debug)]
pub struct Loaded {
    /// The policy's hash.
    pub policy: String,
    /// How many routes it has.
    pub routes: usize,
    /// How many keys it has.
    pub keys: usize,
    /// What is worth a look although it can be used.
    pub warnings: Diagnostics,
}

impl Live {
    /// Puts `generation` in force.
    pub(super) fn new(generation: Generation, recorder: &Recorder, clock: &Clock) -> Self {
        let serving = Serving { generation: Arc::new(generation), face: None };
        let live = Self(Arc::new(Inner {
            now: ArcSwap::from_pointee(serving),
            exchange: Mutex::default(),
            face: OnceLock::new(),
            settings: OnceLock::new(),
            store: OnceLock::new(),
            recorder: recorder.clone(),
            clock: clock.clone(),
        }));
        recorder.offer(live.generation().policy.routes.keys());
        live.tell(Cause::Start);
        live
    }

    /// From now on the network is shown what `make` makes of each generation, given what it made of the one before.
    /// Returns the listener's settings in force.
    pub(super) fn show(
        &self,
        make: impl Fn(&Generation, Option<&Face>) -> Option<Face> + Send + Sync + 'static,
    ) -> Option<listener::InForce> {
        let make = self.0.face.get_or_init(|| Box::new(make));
        let generation = self.generation();
        let face = make(&generation, None)?;
        let settings = self.0.settings.get_or_init(|| watch::Sender::new(Arc::clone(&face.settings)));
        self.0.now.store(Arc::new(Serving { generation, face: Some(face) }));
        Some(settings.subscribe())
    }

    /// From now on the bounds of `store` are those of each policy.
    pub(super) fn keep(&self, store: &Store) {
        self.0.store.get_or_init(|| store.clone());
    }

    /// The generation in force at this moment.
    #[must_use]
    pub fn generation(&self) -> Arc<Generation> {
        Arc::clone(&self.0.now.load().generation)
    }

    /// Where alarms are raised.
    pub(super) fn recorder(&self) -> &Recorder {
        &self.0.recorder
    }

    /// A way to ask for the policy in force.
    #[must_use]
    pub fn policy(&self) -> InForce {
        let live = self.clone();
        InForce::new(move || Arc::clone(&live.0.now.load().generation.policy))
    }

    /// Answers a request as the generation in force does.
    pub(super) async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let router = self.0.now.load().face.as_ref().map(|face| face.router.clone());
        // Without a face nothing listens.
        let router = router.unwrap_or_default();
        router.oneshot(request).await
    }

    /// Reads the policy's directory anew, and puts it in force if nothing is wrong with it.
    ///
    /// # Errors
    /// All that is wrong; then nothing has changed.
    pub async fn reload(&self, cause: Cause) -> Result<Loaded, Diagnostics> {
        let mut found_of_files = self.0.exchange.lock().await;
        let (former, clock) = (self.generation(), self.0.clock.clone());
        let gateway = former.directory.join("gateway.toml");
        let prepared = tokio::task::spawn_blocking(move || former.prepare_next(&clock)).await;
        let prepared = prepared.unwrap_or_else(|_panic| {
            let mut found = Diagnostics::default();
            found.error_in_file(&gateway, BROKEN.to_owned());
            Err(found)
        });
        match prepared {
            Ok((generation, warnings)) => {
                self.put(generation);
                found_of_files.clear();
                self.set_alarms(&found_of_files);
                // What workers said of the former policy is asked anew of this one.
                let is_over = |alarm: &Alarm| matches!(alarm, Alarm::Reload | Alarm::Disagreement(_));
                for over in self.0.recorder.alarms().into_keys().filter(is_over) {
                    self.0.recorder.clear(&over);
                }
                let policy = self.tell(cause);
                let (routes, keys) = (policy.policy.routes.len(), policy.policy.keys.len());
                Ok(Loaded { policy: policy.policy.hash.clone(), routes, keys, warnings })
            }
            Err(found) => {
                let reason = found.brief(MOST_TOLD);
                self.0.recorder.note(Record::NotLoaded { cause, reason: reason.clone() });
                self.0.recorder.raise(Alarm::Reload, reason);
                Err(found)
            }
        }
    }

    /// Puts the files in force that a look at those of `policy` shows, as far as they can be used.
    pub(super) async fn renew(&self, policy: &Arc<Policy>, look: Look) {
        let mut found_of_files = self.0.exchange.lock().await;
        let (former, clock) = (self.generation(), self.0.clock.clone());
        if !Arc::ptr_eq(policy, &former.policy) {
            // Another policy, loaded meanwhile, may name files that the look did not see; the next look does.
            return;
        }
        let renewed = tokio::task::spawn_blocking(move || {
            let renewal = former.policy.renewal(&look);
            former.renew(renewal, &clock)
        });
        match renewed.await.unwrap_or_else(|_panic| Err(BROKEN.to_owned())) {
            Ok((generation, alarms)) => {
                let changed = self.generation().policy.changes(&generation.policy);
                if !changed.is_empty() {
                    let policy = generation.policy.hash.clone();
                    self.put(generation);
                    self.0.recorder.note(Record::Renewed { policy, changed });
                }
                *found_of_files = alarms;
            }
            Err(reason) => {
                found_of_files.insert(Alarm::Certificate, reason);
            }
        }
        self.set_alarms(&found_of_files);
    }

    /// Raises and ends alarms as time alone makes them due.
    pub(super) fn review(&self) {
        // Whoever exchanges what is in force sets the alarms of what comes.
        if let Ok(found_of_files) = self.0.exchange.try_lock() {
            self.set_alarms(&found_of_files);
        }
        self.0.recorder.end_quiet();
    }

    fn silence(&self) -> Option<String> {
        self.generation().trust()?.silence(self.0.clock.now())
    }

    /// The one swap, and the bounds of what outlives it.
    fn put(&self, generation: Generation) {
        let Inner { now, face, settings, store, recorder, .. } = &*self.0;
        if let Some(store) = store.get() {
            store.settle(super::works::settings(&generation.policy));
        }
        let logged = generation.policy.limits.refusals_logged;
        recorder.pace((logged.limit, logged.period));
        recorder.offer(generation.policy.routes.keys());
        let former = now.load();
        let face = face.get().and_then(|make| make(&generation, former.face.as_ref()));
        let shown = face.as_ref().map(|face| Arc::clone(&face.settings));
        now.store(Arc::new(Serving { generation: Arc::new(generation), face }));
        if let (Some(shown), Some(settings)) = (shown, settings.get()) {
            settings.send_replace(shown);
        }
    }

    /// Raises these alarms of files, and that what is in force says nothing any more; clears all others of files.
    fn set_alarms(&self, of_files: &BTreeMap<Alarm, String>) {
        let mut alarms = of_files.clone();
        if let Some(reason) = self.silence() {
            alarms.insert(Alarm::Trust, reason);
        }
        let recorder = &self.0.recorder;
        let standing: BTreeSet<Alarm> = recorder.alarms().into_keys().collect();
        for over in standing.iter().filter(|alarm| alarm.is_of_files() && !alarms.contains_key(alarm)) {
            recorder.clear(over);
        }
        for (alarm, reason) in alarms {
            recorder.raise(alarm, reason);
        }
    }

    /// Puts on record what is in force.
    fn tell(&self, cause: Cause) -> Arc<Generation> {
        let generation = self.generation();
        let policy = generation.policy.hash.clone();
        self.0.recorder.note(Record::Loaded { cause, policy });
        generation
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use super::*;
    use crate::clock::Hands;
    use crate::domain::name::RouteName;
    use crate::policy::Purpose;
    use crate::trust::mint::{Authority, Validity};

    const GATEWAY: &str = "[listen]\naddress = \"127.0.0.1:0\"\ncertificate = \"server.pem\"\n\
         private_key = \"server.key\"\nclient_ca = \"ca.pem\"\nclient_crl = \"crl.pem\"\n\
         [queue]\nfile = \"queue.db\"\n[audit]\nfile = \"audit.jsonl\"\n";
    const ROUTE: &str = "method = \"POST\"\npath = \"/x\"\npayload = \"none\"\n\
         [[allow]]\ncertname = [\"*.example.com\"]\n[run]\nsteps = [[\"/bin/true\"]]\n";
    const DAY: i64 = 86_400;

    struct Place {
        directory: tempfile::TempDir,
        live: Live,
        hands: Arc<Hands>,
    }

    impl Place {
        /// A policy in force, whose revocation list does so for two days.
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let (clock, hands) = Clock::manual("2026-01-01T00:00:00Z".parse().unwrap());
            let valid = |days| Validity::days(clock.now(), days);
            let ca = Authority::new("Test CA", valid(30)).unwrap();
            let server = ca.issue_server(&["localhost".to_owned()], valid(30)).unwrap();
            std::fs::create_dir(directory.path().join("routes")).unwrap();
            for (name, text, mode) in [
                ("gateway.toml", GATEWAY, 0o644),
                ("routes/x.toml", ROUTE, 0o644),
                ("server.pem", &server.certificate, 0o644),
                ("server.key", &server.key, 0o600),
                ("ca.pem", &ca.pem(), 0o644),
                ("crl.pem", &ca.crl(&[], valid(2)).unwrap(), 0o644),
            ] {
                let path = directory.path().join(name);
                std::fs::write(&path, text).unwrap();
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            }
            let prepared = Generation::prepare(directory.path(), Purpose::Whole, &clock);
            let (generation, _) = prepared.unwrap_or_else(|found| panic!("{found}"));
            let rate = (NonZeroU32::MIN, Duration::from_secs(1));
            let log = directory.path().join("audit.jsonl");
            let recorder = Recorder::open(&log, rate, clock.clone()).unwrap();
            let live = Live::new(generation, &recorder, &clock);
            Self { directory, live, hands }
        }

        fn alarms(&self) -> Vec<Alarm> {
            self.live.recorder().alarms().into_keys().collect()
        }

        /// What a look finds now is put in force.
        async fn renew(&self) {
            let policy = Arc::clone(&self.live.generation().policy);
            let look = policy.look(&Look::default());
            self.live.renew(&policy, look).await;
        }
    }

    #[tokio::test]
    async fn lists_that_say_nothing_raise_an_alarm_until_the_clock_is_set_back() {
        let place = Place::new();
        place.live.review();
        assert_eq!(place.alarms(), []);
        place.hands.step_seconds(3 * DAY);
        place.live.review();
        assert_eq!(place.alarms(), [Alarm::Trust]);
        place.hands.step_seconds(-3 * DAY);
        place.live.review();
        assert_eq!(place.alarms(), []);

        // What a look has found is over only by another look.
        let (ca, good) = (place.directory.path().join("ca.pem"), "ca.pem.good");
        std::fs::rename(&ca, place.directory.path().join(good)).unwrap();
        place.renew().await;
        let found = place.live.recorder().alarms();
        assert!(found[&Alarm::Trust].contains("does not exist"), "{found:?}");
        place.hands.step_seconds(3 * DAY);
        place.live.review();
        let expired = place.live.recorder().alarms();
        assert!(expired[&Alarm::Trust].contains("has expired"), "{expired:?}");
        place.hands.step_seconds(-3 * DAY);
        place.live.review();
        assert_eq!(place.live.recorder().alarms(), found);
        std::fs::rename(place.directory.path().join(good), &ca).unwrap();
        place.renew().await;
        place.live.review();
        assert_eq!(place.alarms(), []);
    }

    #[tokio::test]
    async fn alarms_of_what_is_being_exchanged_are_left_to_the_exchange() {
        let place = Place::new();
        place.hands.step_seconds(3 * DAY);
        let exchange = place.live.0.exchange.lock().await;
        place.live.review();
        assert_eq!(place.alarms(), []);
        drop(exchange);
        place.live.review();
        assert_eq!(place.alarms(), [Alarm::Trust]);
    }

    #[tokio::test]
    async fn a_disagreement_is_over_by_a_reload_or_by_itself() {
        let place = Place::new();
        let alarm = || Alarm::Disagreement(RouteName::parse("x").unwrap());
        let raise = || place.live.recorder().raise(alarm(), "it has no route `x`".into());
        raise();
        place.live.review();
        assert_eq!(place.alarms(), [alarm()]);
        place.live.reload(Cause::Signal).await.unwrap();
        assert_eq!(place.alarms(), []);
        raise();
        place.hands.advance(Duration::from_secs(3600));
        place.live.review();
        assert_eq!(place.alarms(), []);
    }
}
