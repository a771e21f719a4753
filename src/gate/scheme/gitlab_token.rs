//! `gitlab-token`: `X-Gitlab-Token` is the secret itself. Nothing is signed, so `check` warns of it.
//! <https://docs.gitlab.com/user/project/integrations/webhooks/>

use super::claim::{Claim, Proof};

pub(super) fn read(line: &[u8]) -> Claim {
    Claim { proof: Proof::Token(line.to_vec()), created: None, id: None }
}

#[cfg(test)]
mod tests {
    use super::super::verifier::tests::{absent, refused, verified};
    use crate::policy::Scheme;

    #[test]
    fn the_header_is_the_secret() {
        let secret = b"a token of GitLab's, long enough";
        let text = std::str::from_utf8(secret).unwrap();
        verified(&Scheme::GitlabToken, secret, &[("X-Gitlab-Token", text)], b"{}");
        for bad in ["", "A token of GitLab's, long enough", "a token of GitLab's, long enoug"] {
            refused(&Scheme::GitlabToken, secret, &[("X-Gitlab-Token", bad)], b"{}");
        }
        absent(&Scheme::GitlabToken, secret, &[("X-Gitlab", text)], b"{}");
    }
}
