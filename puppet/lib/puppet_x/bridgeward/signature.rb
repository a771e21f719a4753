# frozen_string_literal: true

require 'openssl'

module PuppetX; end
module PuppetX::Bridgeward; end

# Signs a request by RFC 9421 (HTTP Message Signatures) with hmac-sha256, as the gateway demands it.
#
# Covers @method, @authority, @path, @query (when the target holds a `?`), content-digest (with a body) and every header
# that it is given. It sends nothing and keeps nothing.
class PuppetX::Bridgeward::Signature
  # What a key's name is made of in the gateway's policy.
  KEY = %r{\A[A-Za-z0-9][A-Za-z0-9._-]{0,99}\z}.freeze

  # @param key [String] the name of the key in the gateway's policy
  # @param secret [String] the secret; one trailing line feed is not part of it, as in the gateway's files
  def initialize(key, secret)
    @key = key
    @secret = secret.chomp("\n")
  end

  # @param method [String] in capitals
  # @param authority [String] the value of the Host header
  # @param target [String] path and query
  # @param headers [Hash{String => String}] what else is covered, by name
  # @param body [String] empty: there is none
  # @param created [Integer] seconds since 1970
  # @param nonce [String] the message's id: the same again is the same message
  # @return [Hash{String => String}] the headers to add
  def headers(method:, authority:, target:, headers:, body:, created:, nonce:)
    path, query = target.split('?', 2)
    covered = [['@method', method], ['@authority', authority.downcase.delete_suffix(':443')], ['@path', path]]
    covered << ['@query', "?#{query}"] if query
    headers.each { |name, value| covered << [name.downcase, value.strip] }
    added = {}
    unless body.empty?
      added['Content-Digest'] = "sha-256=:#{base64(OpenSSL::Digest::SHA256.digest(body))}:"
      covered << ['content-digest', added['Content-Digest']]
    end
    names = covered.map { |name, _| %("#{name}") }.join(' ')
    parameters = %[(#{names});created=#{created};nonce="#{nonce}";alg="hmac-sha256";keyid="#{@key}"]
    lines = covered.map { |name, value| %("#{name}": #{value}) } << %("@signature-params": #{parameters})
    mac = OpenSSL::HMAC.digest('SHA256', @secret, lines.join("\n"))
    added.merge('Signature-Input' => "sig=#{parameters}", 'Signature' => "sig=:#{base64(mac)}:")
  end

  # Without the secret.
  def inspect
    "#<#{self.class} #{@key}>"
  end

  private

  def base64(bytes)
    [bytes].pack('m0')
  end
end
