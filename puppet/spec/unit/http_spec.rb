# frozen_string_literal: true

require 'puppet'

describe 'http' do
  def made(parameters, sensitive = [])
    resource = Puppet::Resource.new(:http, 'kick', parameters: { ensure: :get, fqdn: 'gateway.example.com' }.merge(parameters).compact)
    resource.sensitive_parameters = sensitive
    Puppet::Type.type(:http).new(resource)
  end

  {
    'no ensure' => [{ ensure: nil }, 'ensure is needed'],
    'another method' => [{ ensure: 'put' }, 'Invalid value "put"'],
    'no host' => [{ fqdn: nil }, 'fqdn is needed'],
    'a URL for a host' => [{ fqdn: 'https://gateway' }, 'fqdn is a host name'],
    'a port that is none' => [{ port: 70_000 }, 'port is a number'],
    'data with get' => [{ data: { 'a' => 1 } }, 'data is sent with `ensure => post` only'],
    'a key without a secret' => [{ key: 'jenkins' }, 'key and secret belong together'],
    'a short secret' => [{ key: 'jenkins', secret: 'short' }, 'at least 16 bytes'],
    'a secret that is not Sensitive' => [{ key: 'jenkins', secret: 's' * 32 }, 'secret must be Sensitive'],
    'a quote in a key' => [{ key: 'a"b', secret: 's' * 32 }, 'a key is named by'],
    'a header that signing makes' => [{ header: { 'Signature' => 'x' } }, 'the header Signature is made by the request itself'],
    'a header twice' => [{ header: { 'X-A' => 'x', 'x-a' => 'y' } }, 'a header can be given once'],
    'a line end in a header' => [{ header: { 'X' => "a\r\nB: c" } }, 'the header X must be a string of printable ASCII'],
    'a line end in a content type' => [{ header: "a\r\nB: c" }, 'the header Content-Type must be a string of printable ASCII'],
    'a space in a route' => [{ route: '/a b' }, 'a route is a path of printable ASCII'],
    'a fragment in a route' => [{ route: '/a#b' }, 'a route is a path of printable ASCII'],
    'another scheme' => [{ scheme: 'ftp' }, 'Invalid value "ftp"'],
    'a word for a status' => [{ expect: [202, 'fine'] }, 'expect holds HTTP statuses'],
    'no time at all' => [{ timeout: 0 }, 'timeout is a number of seconds above 0'],
    'endless retries' => [{ retries: 101 }, 'retries is a number from 0 to 100'],
  }.each do |what, (parameters, reason)|
    it "refuses #{what}" do
      expect { made(parameters) }.to raise_error(Puppet::Error, %r{#{Regexp.escape(reason)}}) do |error|
        expect(error.message).not_to include('ssssssss')
      end
    end
  end

  it 'defaults to https, port 8443, 200 and 202' do
    http = made({})
    expect([http[:route], http[:scheme], http[:port], http[:expect], http[:retries], http[:timeout]])
      .to eq(['/kick', :https, 8443, [200, 202], 2, 30.0])
  end

  it 'prints no secret' do
    http = made({ key: 'jenkins', secret: 's' * 32 }, [:secret])
    expect([http.inspect, http[:secret].inspect, http.to_resource.to_s, "#{http[:secret]}"].join).not_to include('ssssssss')
  end

  it 'may send one route to two gateways' do
    catalog = Puppet::Resource::Catalog.new
    %w[one two].each do |title|
      catalog.add_resource(Puppet::Type.type(:http).new(title: title, route: '/kick', ensure: :get, fqdn: title))
    end
    expect(catalog.resources.size).to eq(2)
  end

  # RFC 9421, B.2.5: a foreign key and foreign headers, the base and the MAC of the same shape.
  it 'signs what the gateway verifies' do
    signed = PuppetX::Bridgeward::Signature.new('k', "0123456789abcdef\n").headers(
      method: 'POST', authority: 'Gateway.Example.com:443', target: '/p?a=b?c', headers: { 'X-A' => ' v ' }, body: '{}', created: 1, nonce: 'n'
    )
    parameters = '("@method" "@authority" "@path" "@query" "x-a" "content-digest");created=1;nonce="n";alg="hmac-sha256";keyid="k"'
    expect(signed['Signature-Input']).to eq("sig=#{parameters}")
    digest = 'sha-256=:RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o=:'
    expect(signed['Content-Digest']).to eq(digest)
    base = <<~BASE.chomp
      "@method": POST
      "@authority": gateway.example.com
      "@path": /p
      "@query": ?a=b?c
      "x-a": v
      "content-digest": #{digest}
      "@signature-params": #{parameters}
    BASE
    mac = OpenSSL::HMAC.digest('SHA256', '0123456789abcdef', base)
    expect(signed['Signature']).to eq("sig=:#{[mac].pack('m0')}:")
  end
end
