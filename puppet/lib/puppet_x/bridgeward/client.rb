# frozen_string_literal: true

require 'json'
require 'net/http'
require 'securerandom'
require 'timeout'
require 'uri'
require_relative 'signature'

# Sends what one `http` resource says over a connection of Puppet's own HTTP client: its TLS settings, certificates,
# revocation lists and proxy. Opens no connection of its own, and writes no log but of what it tries again.
#
# Redirects are not followed and `Retry-After` is not slept through as that client does by itself, which may take hours:
# what comes back is judged here, and waits have an end.
class PuppetX::Bridgeward::Client
  # Most of an answer that is read, in bytes; what a gateway says is far shorter.
  ANSWER_LIMIT = 64 * 1024
  # Longest pause before another attempt, in seconds.
  LONGEST_PAUSE = 60
  # Statuses after which the same message may fare better.
  PASSING = [429, 502, 503, 504].freeze

  # A failure that another attempt may mend. `pause`: seconds, if the gateway named them.
  class Passing < Puppet::Error
    attr_reader :pause

    def initialize(message, pause = nil)
      super(message)
      @pause = pause
    end
  end

  # @param resource [Puppet::Type] an `http` resource
  def initialize(resource)
    @resource = resource
  end

  # @param method [String] GET or POST
  # @return [String] what came of it, for the log
  # @raise [Puppet::Error] with the reason, when it was not accepted
  def send_request(method)
    message = { method: method, body: body, id: SecureRandom.uuid }
    left = resource[:retries]
    pause = 1
    begin
      attempt(message)
    rescue Passing => e
      raise Puppet::Error, e.message if left.zero?

      left -= 1
      wait = [e.pause || pause, LONGEST_PAUSE].min
      pause *= 2
      Puppet.warning("#{resource.ref}: #{e.message}; trying again in #{wait} s")
      sleep(wait)
      retry
    end
  end

  private

  attr_reader :resource

  def attempt(message)
    status, reason, answer, retry_after = exchange(request(message))
    place = "#{message[:method]} #{url}: #{status} #{reason}".rstrip
    return "#{place}#{told(answer)}" if resource[:expect].include?(status)

    text = "#{place}#{told(answer)}#{hint(status)}"
    raise Passing.new(text, retry_after) if PASSING.include?(status)

    raise Puppet::Error, text
  end

  # @return [Array] status, reason phrase, beginning of the body, seconds to wait
  def exchange(request)
    limit = resource[:timeout]
    Timeout.timeout(limit) do
      answer = nil
      client.connect(URI(url)) do |connection|
        connection.read_timeout = limit
        connection.request(request) { |response| answer = [Integer(response.code, 10), response.message.to_s, read(response), pause(response)] }
      end
      answer
    end
  rescue Timeout::Error
    raise Passing, "#{request.method} #{url}: no answer within #{limit.to_s.delete_suffix('.0')} s"
  rescue Puppet::SSL::SSLError => e
    raise Puppet::Error, "#{request.method} #{url}: #{e.message}"
  rescue Puppet::HTTP::HTTPError, OpenSSL::SSL::SSLError, SystemCallError, SocketError, IOError, Net::ProtocolError => e
    # Neither side changes its mind about a certificate between two attempts.
    raise Puppet::Error, "#{request.method} #{url}: #{e.message}" if e.message.match?(%r{certificate verify failed|\balert\b})

    raise Passing, "#{request.method} #{url}: #{e.message}"
  end

  def client
    client = Puppet.runtime[:http]
    return client if client.respond_to?(:connect)

    raise Puppet::Error, 'this process has an HTTP client that is not Puppet\'s own; the http type works in agents and `puppet apply`'
  end

  def request(message)
    kind = (message[:method] == 'POST') ? Net::HTTP::Post : Net::HTTP::Get
    host = authority
    headers = given(message)
    request = kind.new(resource[:route], headers.merge('Host' => host, 'Connection' => 'close', 'User-Agent' => Puppet[:http_user_agent]))
    request.body = message[:body] if message[:method] == 'POST'
    signature(message, host, headers).each { |name, value| request[name] = value }
    request
  end

  # The headers that say something: those given, the content type, and the message's id.
  def given(message)
    headers = resource[:header].to_h.dup
    names = headers.keys.map(&:downcase)
    headers['Content-Type'] = 'application/json' if message[:method] == 'POST' && !names.include?('content-type')
    headers['Idempotency-Key'] = message[:id] unless names.include?('idempotency-key')
    headers
  end

  def signature(message, host, headers)
    return {} unless resource[:key]

    PuppetX::Bridgeward::Signature.new(resource[:key], resource[:secret].unwrap).headers(
      method: message[:method], authority: host, target: resource[:route], headers: headers,
      body: message[:body], created: Time.now.to_i, nonce: message[:id]
    )
  end

  def body
    resource[:data].nil? ? '' : JSON.generate(plain(resource[:data]))
  end

  # Values that are Sensitive inside of a hash or an array arrive wrapped.
  def plain(value)
    case value
    when Puppet::Pops::Types::PSensitiveType::Sensitive then plain(value.unwrap)
    when Hash then value.to_h { |name, inner| [name.to_s, plain(inner)] }
    when Array then value.map { |inner| plain(inner) }
    when :undef then nil
    else value
    end
  end

  def authority
    standard = (resource[:scheme] == :https) ? 443 : 80
    host = resource[:fqdn].downcase
    (resource[:port] == standard) ? host : "#{host}:#{resource[:port]}"
  end

  def url
    "#{resource[:scheme]}://#{resource[:fqdn]}:#{resource[:port]}#{resource[:route]}"
  end

  def read(response)
    text = +''
    response.read_body do |chunk|
      text << chunk
      raise Puppet::Error, "the answer has more than #{ANSWER_LIMIT} bytes" if text.bytesize > ANSWER_LIMIT
    end
    text
  end

  def pause(response)
    seconds = response['Retry-After'].to_s
    Integer(seconds, 10) if seconds.match?(%r{\A\d{1,9}\z})
  end

  # What the gateway said: the fields of its JSON, or the first line of its text.
  def told(answer)
    fields = JSON.parse(answer)
    raise JSON::ParserError unless fields.is_a?(Hash)

    said = fields.values_at('title', 'detail', 'reason').compact
    said << "job #{fields['job']} #{fields['state']}" if fields['job']
    said << fields['state'] if fields['state'] && !fields['job']
    said << 'joined a waiting job' if fields['coalesced']
    said << 'the gateway had it already' if fields['duplicate']
    printable(said.join(', '))
  rescue JSON::ParserError
    printable(answer.lines.first.to_s)
  end

  def printable(text)
    text = text.dup.force_encoding(Encoding::UTF_8).scrub('?').gsub(%r{[[:cntrl:]]}, ' ').strip[0, 300]
    text.empty? ? '' : " (#{text})"
  end

  def hint(status)
    return '' unless status == 404

    '; so answers a gateway whatever is not there or not allowed to this node: the reason is in its log'
  end
end
