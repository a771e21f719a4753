#!/bin/sh
# Makes certificates in the shape of Puppet's, with openssl alone, so that nothing of ours has a hand in them:
# a root CA, an intermediate that signs nodes, RSA, a critical extendedKeyUsage for both sides, trusted extensions as
# UTF8String, one file with both CAs (intermediate first) and one with both revocation lists.
#
# usage: puppet-shape.sh DIR
# Writes ca.pem crl.pem and, for each node, NAME.pem NAME.key. revoked.example.test is on the list.
set -eu
umask 077
mkdir -p "$1"
cd "$1"

cat > openssl.cnf <<'CONFIG'
[ca]
default_ca = intermediate

[req]
distinguished_name = name

[name]

[root]
database         = root.txt
crlnumber        = root.number
certificate      = root.pem
private_key      = root.key
default_md       = sha256
default_crl_days = 5475

[intermediate]
database         = intermediate.txt
crlnumber        = intermediate.number
certificate      = intermediate.pem
private_key      = intermediate.key
default_md       = sha256
default_crl_days = 1825

[crl]
authorityKeyIdentifier = keyid

[authority]
basicConstraints       = critical, CA:TRUE
keyUsage               = critical, keyCertSign, cRLSign
subjectKeyIdentifier   = hash
authorityKeyIdentifier = keyid
nsComment              = Puppet Server Internal Certificate

[node]
basicConstraints       = critical, CA:FALSE
keyUsage               = critical, keyEncipherment, digitalSignature
extendedKeyUsage       = critical, serverAuth, clientAuth
subjectKeyIdentifier   = hash
authorityKeyIdentifier = keyid
nsComment              = Puppet Server Internal Certificate
CONFIG

authority() { # name, subject, serial, then how it is signed
	name=$1 subject=$2 serial=$3
	shift 3
	openssl genrsa -out "$name.key" 2048 2>/dev/null
	openssl req -new -config openssl.cnf -key "$name.key" -subj "$subject" -out "$name.csr"
	openssl x509 -req -in "$name.csr" "$@" -set_serial "$serial" -sha256 -days 5475 \
		-extfile openssl.cnf -extensions authority -out "$name.pem" 2>/dev/null
	: > "$name.txt"
	echo 00 > "$name.number"
}

node() { # certname, serial, then lines of extensions
	name=$1 serial=$2
	shift 2
	openssl genrsa -out "$name.key" 2048 2>/dev/null
	openssl req -new -config openssl.cnf -key "$name.key" -subj "/CN=$name" -out "$name.csr"
	{
		sed -n '/^\[node\]/,$p' openssl.cnf
		echo "subjectAltName = DNS:$name"
		printf '%s\n' "$@"
	} > "$name.cnf"
	openssl x509 -req -in "$name.csr" -CA intermediate.pem -CAkey intermediate.key -set_serial "$serial" -sha256 \
		-days 1825 -extfile "$name.cnf" -extensions node -out "$name.pem" 2>/dev/null
}

authority root "/CN=Puppet Root CA: 0123456789abcdef" 1 -signkey root.key
authority intermediate "/CN=Puppet CA: puppet.example.test" 2 -CA root.pem -CAkey root.key

node web.example.test 3 \
	"1.3.6.1.4.1.34380.1.1.13 = ASN1:UTF8String:haproxy_app_internal" \
	"1.3.6.1.4.1.34380.1.3.13 = ASN1:UTF8String:webhook_sender"
node revoked.example.test 4 "1.3.6.1.4.1.34380.1.1.13 = ASN1:UTF8String:haproxy_app_internal"
# As Puppets before 4 wrote them: the bare text, without an ASN.1 type.
node old.example.test 5 "1.3.6.1.4.1.34380.1.1.13 = DER:68:61:70:72:6f:78:79"
node puppet.example.test 6

openssl ca -config openssl.cnf -name intermediate -revoke revoked.example.test.pem -crl_reason keyCompromise 2>/dev/null
openssl ca -config openssl.cnf -name intermediate -gencrl -crlexts crl -out intermediate.crl 2>/dev/null
openssl ca -config openssl.cnf -name root -gencrl -crlexts crl -out root.crl 2>/dev/null

cat intermediate.pem root.pem > ca.pem
cat intermediate.crl root.crl > crl.pem
