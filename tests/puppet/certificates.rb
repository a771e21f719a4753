# Makes a Puppet CA and certificates by the code that `puppetserver ca` itself runs, without a server.
#
# usage: ruby certificates.rb DIR NODE...     NODE is CERTNAME or CERTNAME,EXTENSION=VALUE,...
# Writes ca.pem (intermediate, then root), crl.pem, crl-revoked.pem (with revoked.example.test on it), the server's
# localhost.pem and localhost.key, and NAME.pem and NAME.key for each node and for revoked.example.test.
require 'fileutils'
require 'openssl'
require 'puppetserver/ca/host'
require 'puppetserver/ca/local_certificate_authority'
require 'yaml'

BITS = 2048
OUT = ARGV.shift
DIGEST = OpenSSL::Digest::SHA256.new
SETTINGS = {
  keylength: BITS, ca_name: 'Puppet CA: puppet.example.test', root_ca_name: 'Puppet Root CA: fixture', ca_ttl: 5 * 365 * 86_400,
  cacert: "#{OUT}/none", cakey: "#{OUT}/none", cacrl: "#{OUT}/none", serial: "#{OUT}/serial",
  csr_attributes: "#{OUT}/csr_attributes.yaml", certname: 'localhost', subject_alt_names: ''
}.freeze

# Signs as the server signs agents: without the extension that makes a certificate the CA administrator's.
class Authority < Puppetserver::Ca::LocalCertificateAuthority
  def add_authorized_extensions(certificate, factory)
    SERVER_EXTENSIONS.each { |extension| certificate.add_extension(factory.create_extension(*extension)) }
  end
end

def write(name, *pems)
  File.write("#{OUT}/#{name}", pems.map { |pem| pem.is_a?(String) ? pem : pem.to_pem }.join)
  File.chmod(name.end_with?('.key') ? 0o600 : 0o644, "#{OUT}/#{name}")
end

def sign(ca, name, extensions, alternatives = "DNS:#{name}")
  File.write(SETTINGS[:csr_attributes], { 'extension_requests' => extensions }.to_yaml)
  signer = Authority.new(DIGEST, SETTINGS)
  signer.instance_variable_set(:@cert, ca.cert)
  signer.instance_variable_set(:@key, ca.key)
  host = Puppetserver::Ca::Host.new(DIGEST)
  key = host.create_private_key(BITS)
  request = host.create_csr(name: name, key: key, csr_attributes_path: SETTINGS[:csr_attributes])
  certificate = signer.sign_authorized_cert(request, alternatives)
  signer.update_serial_file(certificate.serial + 1)
  abort((host.errors + signer.errors).join("\n")) unless (host.errors + signer.errors).empty?
  write("#{name}.pem", certificate)
  write("#{name}.key", key)
  certificate
end

FileUtils.mkdir_p(OUT)
ca = Authority.new(DIGEST, SETTINGS)
root_key, root, root_list = ca.create_root_cert
ca.create_intermediate_cert(root_key, root)
write('ca.pem', ca.cert, root)
sign(ca, 'localhost', {}, 'DNS:localhost,DNS:puppet,IP:127.0.0.1')
revoked = sign(ca, 'revoked.example.test', { 'pp_auth_role' => 'app_internal' })
ARGV.each do |node|
  name, *extensions = node.split(',')
  sign(ca, name, extensions.to_h { |extension| extension.split('=', 2) })
end

list = ca.create_crl_for(ca.cert, ca.key)
write('crl.pem', list, root_list)
entry = OpenSSL::X509::Revoked.new
entry.serial = revoked.serial
entry.time = Time.now
entry.add_extension(OpenSSL::X509::Extension.new('CRLReason', OpenSSL::ASN1::Enumerated(1)))
list.add_revoked(entry)
list.extensions = list.extensions.map do |extension|
  extension.oid == 'crlNumber' ? OpenSSL::X509::Extension.new('crlNumber', OpenSSL::ASN1::Integer(1)) : extension
end
list.sign(ca.key, DIGEST)
write('crl-revoked.pem', list, root_list)
abort(ca.errors.join("\n")) unless ca.errors.empty?
